//! The version of a data directory: the file `FORMAT`, and the way up from older versions.
//!
//! `FORMAT` holds one line, `weft-store <version>`. It is written last when a directory is made, so a directory with
//! files but without `FORMAT` is either half made, and empty, or damaged. A newer version is refused; an older one is
//! migrated step by step, each step ending with a new `FORMAT`, so an interrupted migration begins again where it was.

use super::error::{Result, StoreError};
use crate::platform::disk::{Disk, OpenMode};
use std::io;
use std::path::Path;

/// The version this program writes.
pub(super) const VERSION: u32 = 1;
/// The file that holds the version.
pub(super) const FILE: &str = "FORMAT";

const TEMPORARY: &str = "FORMAT.tmp";
const WORD: &str = "weft-store ";
const FILE_BYTES_MAX: usize = 64;
const ADVICE: &str = "restore the file from a backup";

/// One step up: brings a directory of version `from` to `from + 1`. It may run again after being cut off.
pub(super) struct Migration {
    pub(super) from: u32,
    pub(super) run: fn(&dyn Disk, &Path) -> io::Result<()>,
}

/// The steps this program knows, in any order. Version 1 is the first.
pub(super) const MIGRATIONS: &[Migration] = &[];

/// The version a directory has, `None` when it has no `FORMAT`.
pub(super) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<u32>> {
    let path = dir.join(FILE);
    if !disk.exists(&path).map_err(StoreError::io("look for", &path))? {
        return Ok(None);
    }
    let mut buffer = [0; FILE_BYTES_MAX];
    let read = disk
        .open(&path, OpenMode::READ)
        .and_then(|file| file.read_at(&mut buffer, 0));
    let count = read.map_err(StoreError::io("read", &path))?;
    let text = std::str::from_utf8(&buffer[..count]).ok();
    let version = text.and_then(|text| text.strip_prefix(WORD)?.strip_suffix('\n')?.parse().ok());
    version.map(Some).ok_or_else(|| StoreError::Corrupt {
        file: path,
        offset_bytes: Some(0),
        reason: "it does not say \"weft-store <version>\"".to_string(),
        lost: "the version of the data directory, no data".to_string(),
        lost_records: None,
        advice: "if this node last ran version 1, write the line \"weft-store 1\" into it",
    })
}

/// Brings a directory that has a version up to `newest`, or refuses.
pub(super) fn bring_up(disk: &dyn Disk, dir: &Path, found: u32, newest: u32, steps: &[Migration]) -> Result<()> {
    if found > newest {
        return Err(StoreError::TooNew {
            dir: dir.to_path_buf(),
            found,
            supported: newest,
        });
    }
    // Every step must be known before the first one changes anything.
    let step = |from: u32| steps.iter().find(|step| step.from == from);
    if (found..newest).any(|from| step(from).is_none()) {
        return Err(StoreError::TooOld {
            dir: dir.to_path_buf(),
            found,
            supported: newest,
        });
    }
    for step in (found..newest).filter_map(step) {
        tracing::info!(target: "weft::store", from = step.from, to = step.from + 1, "migrating the data directory");
        (step.run)(disk, dir).map_err(StoreError::io("migrate", dir))?;
        write(disk, dir, step.from + 1)?;
    }
    Ok(())
}

/// Writes the version, durably and at once.
pub(super) fn write(disk: &dyn Disk, dir: &Path, version: u32) -> Result<()> {
    let (temporary, path) = (dir.join(TEMPORARY), dir.join(FILE));
    let text = format!("{WORD}{version}\n");
    let written = disk.open(&temporary, OpenMode::CREATE).and_then(|file| {
        file.set_len(0)?;
        file.write_at(text.as_bytes(), 0)?;
        file.sync_data()
    });
    written.map_err(StoreError::io("write", &temporary))?;
    disk.rename(&temporary, &path)
        .map_err(StoreError::io("rename to", &path))?;
    disk.sync_dir(dir).map_err(StoreError::io("sync the folder", dir))
}

/// The error for a directory with data and no `FORMAT`, or the other way round.
pub(super) fn missing(dir: &Path, file: &str, lost: &str) -> StoreError {
    StoreError::Corrupt {
        file: dir.join(file),
        offset_bytes: None,
        reason: "the file is missing".to_string(),
        lost: lost.to_string(),
        lost_records: None,
        advice: ADVICE,
    }
}

//! The folder of a run, in which its nodes have theirs: gone with the run, or, when that was killed, with the next one.

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use tempfile::TempDir;

/// What the names of such folders begin with; the number of the process follows.
const PREFIX: &str = "weft-sim.";

/// A folder for this run.
pub(super) fn make() -> io::Result<TempDir> {
    tempfile::Builder::new()
        .prefix(&format!("{PREFIX}{}.", std::process::id()))
        .tempdir()
}

/// Takes away what runs of this user that were killed left behind.
pub(super) fn sweep() {
    sweep_in(&std::env::temp_dir());
}

fn sweep_in(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('.').next()?.parse::<u32>().ok());
        let is_over = pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        let is_ours = entry
            .metadata()
            .is_ok_and(|data| data.is_dir() && data.uid() == rustix::process::geteuid().as_raw());
        if is_over && is_ours {
            // What cannot be taken away is in nobody's way.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_uses_any_more_is_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let own = format!("{PREFIX}{}.abc", std::process::id());
        // No process has this number: it is above what the kernel gives.
        for name in [
            "weft-sim.4294967290.abc",
            own.as_str(),
            "weft-sim.abc",
            "weft-sim",
            "other",
        ] {
            std::fs::create_dir_all(folder.path().join(name).join("inner")).unwrap();
        }
        sweep_in(folder.path());
        let mut left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        left.sort();
        let mut wanted = vec![own.as_str(), "weft-sim.abc", "weft-sim", "other"];
        wanted.sort_unstable();
        assert_eq!(left, wanted);
    }
}

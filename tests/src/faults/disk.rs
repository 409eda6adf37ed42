//! A file system of a node's own, so that it can be filled and made read-only without harm to anybody else.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// Room for a node's data and some.
const BYTES: u64 = 128 << 20;
/// What the disk is filled with.
const FILLER: &str = "filler";

/// An ext4 in a file, mounted; unmounted when dropped.
pub struct Disk {
    mounted: PathBuf,
}

impl Disk {
    /// Makes one from the file `image` and mounts it at a folder, which is made.
    ///
    /// # Errors
    /// In words, what is missing: the rights, loop devices, `mkfs.ext4`.
    pub fn mount(image: &Path, at: &Path) -> Result<Self, String> {
        let file = File::create(image).map_err(|e| format!("{}: {e}", image.display()))?;
        file.set_len(BYTES).map_err(|e| format!("{}: {e}", image.display()))?;
        fs::create_dir(at).map_err(|e| format!("{}: {e}", at.display()))?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at))?;
        let disk = Disk { mounted: at.to_owned() };
        // The data dir of a node is a folder of its own.
        let _ = fs::remove_dir(at.join("lost+found"));
        fs::set_permissions(at, Permissions::from_mode(0o700)).map_err(|e| e.to_string())?;
        Ok(disk)
    }

    /// Leaves no byte free.
    ///
    /// # Panics
    /// When the file system says something else than that it is full.
    pub fn fill(&self) {
        let mut file = File::create(self.mounted.join(FILLER)).unwrap();
        for size in [1 << 20, 4 << 10, 1] {
            loop {
                match file.write_all(&vec![0; size]).and_then(|()| file.sync_data()) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::StorageFull => break,
                    Err(e) => panic!("the disk cannot be filled: {e}"),
                }
            }
        }
    }

    /// Gives back what [`fill`](Self::fill) took.
    ///
    /// # Panics
    /// When the file system does not let go of it.
    pub fn free(&self) {
        fs::remove_file(self.mounted.join(FILLER)).unwrap();
    }

    /// Takes no write any more, or again. Nobody may have a file open for writing.
    ///
    /// # Errors
    /// What `mount` says.
    pub fn set_read_only(&self, yes: bool) -> Result<(), String> {
        let how = if yes { "remount,ro" } else { "remount,rw" };
        run(Command::new("mount").args(["-o", how]).arg(&self.mounted))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also while its node still runs: it goes when the last file is closed.
        let _ = Command::new("umount").arg("-l").arg(&self.mounted).status();
    }
}

/// Runs a tool to its end.
///
/// # Errors
/// What it says.
pub fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

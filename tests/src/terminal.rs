//! A command at a terminal of its own, and the person who sits there.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};

use crate::until;

/// A running command whose controlling terminal is ours.
pub struct Terminal {
    child: Child,
    ours: File,
    theirs: PathBuf,
    shown: Arc<Mutex<String>>,
    reader: thread::JoinHandle<()>,
}

impl Terminal {
    /// Starts a command with a terminal for standard input, output and error.
    ///
    /// # Panics
    /// When the machine has no pseudo-terminals, or no `setsid`.
    pub fn start(command: &Command) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let theirs = PathBuf::from(ptsname(&ours, Vec::new()).unwrap().to_str().unwrap());
        let end = || {
            let mut options = OpenOptions::new();
            Stdio::from(options.read(true).write(true).open(&theirs).unwrap())
        };
        // The shell's tool makes the terminal the controlling one, which is what `/dev/tty` means.
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]).arg(command.get_program());
        session
            .args(command.get_args())
            .stdin(end())
            .stdout(end())
            .stderr(end());
        session.current_dir(command.get_current_dir().unwrap());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        let child = session.spawn().unwrap();
        let ours = File::from(ours);
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut reader, seen) = (ours.try_clone().unwrap(), Arc::clone(&shown));
        let reader = thread::spawn(move || {
            let mut bytes = [0; 1024];
            // The other end's closing is an error on this one.
            while let Ok(count) = reader.read(&mut bytes) {
                seen.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Terminal {
            child,
            ours,
            theirs,
            shown,
            reader,
        }
    }

    /// Everything the screen shows.
    pub fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    /// Waits until the screen ends with `prompt` and types a line without being shown it.
    #[track_caller]
    pub fn answers_unseen(&mut self, prompt: &str, line: &str) {
        until(&format!("{prompt:?} is asked"), || {
            self.shown().ends_with(prompt).then_some(())
        });
        // Only what is typed once the terminal has gone quiet stays unseen.
        let theirs = OpenOptions::new().read(true).write(true).open(&self.theirs).unwrap();
        until("the terminal is quiet", || {
            let modes = tcgetattr(&theirs).unwrap().local_modes;
            (!modes.contains(LocalModes::ECHO)).then_some(())
        });
        self.ours.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Whether what is typed is shown.
    pub fn echoes(&self) -> bool {
        let theirs = OpenOptions::new().read(true).write(true).open(&self.theirs).unwrap();
        tcgetattr(theirs).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    /// Waits for the end, and until all that was said is shown: the exit code.
    #[track_caller]
    pub fn ends(&mut self) -> Option<i32> {
        let code = until("the command ends", || self.child.try_wait().unwrap()).code();
        until("the terminal is closed", || self.reader.is_finished().then_some(()));
        code
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

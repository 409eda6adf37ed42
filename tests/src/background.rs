//! A command of `weft` that goes on while the test does other things: `serve`, `sub`.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::until;

type Lines = Arc<Mutex<Vec<String>>>;

/// A running command; killed when dropped.
pub struct Background {
    child: Child,
    stdout: Lines,
    stderr: Lines,
    what: String,
}

impl Background {
    /// Starts it; its lines are collected.
    pub fn start(mut command: Command, what: &str) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        Background {
            child,
            stdout,
            stderr,
            what: what.to_owned(),
        }
    }

    /// Waits until standard error has said `words`.
    #[track_caller]
    pub fn wait_said(&mut self, words: &str) {
        let what = format!("`{}` says {words:?}", self.what);
        until(&what, || {
            let said = self.stderr.lock().unwrap().join("\n");
            if said.contains(words) {
                return Some(());
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "`{}` ended ({ended:?}) without saying {words:?}: {said}",
                self.what
            );
            None
        });
    }

    /// Waits for `count` lines of standard output.
    #[track_caller]
    pub fn wait_lines(&self, count: usize) -> Vec<String> {
        until(
            &format!("`{}` prints {count} lines, has {:?}", self.what, self.stderr()),
            || {
                let lines = self.lines();
                (lines.len() >= count).then_some(lines)
            },
        )
    }

    /// The lines of standard output until now.
    pub fn lines(&self) -> Vec<String> {
        self.stdout.lock().unwrap().clone()
    }

    /// Standard error until now.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().join("\n")
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end; the exit code.
    #[track_caller]
    pub fn wait_ended(&mut self) -> Option<i32> {
        let what = format!("`{}` ends", self.what);
        until(&what, || self.child.try_wait().unwrap()).code()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        signal_to(self.child.id(), signal);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            write_error(&format!("--- {}: {}\n", self.what, self.stderr()));
        }
    }
}

/// Sends a signal to a process of ours.
pub fn signal_to(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
    let _ = kill_process(pid, signal);
}

/// Talk for the person who reads a failed test's output.
pub(crate) fn write_error(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

fn collect(from: impl Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let sink = Arc::clone(&lines);
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { return };
            sink.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
        }
    });
    lines
}

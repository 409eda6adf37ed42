//! One node as a process: started, killed, stopped for a while, started again on its data directory.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Ground, api::Api};
use crate::run::RunError;

/// Of a log, for an error.
const LOG_TAIL_BYTES: u64 = 2_000;

/// A node: its folder, and its process while it runs.
pub(super) struct Node {
    /// Its number.
    pub(super) number: usize,
    folder: PathBuf,
    args: Vec<String>,
    variables: Vec<(String, String)>,
    binary: PathBuf,
    /// Services this node offers, each by a process of its own.
    pub(super) services: Vec<String>,
    child: Option<Child>,
    servers: Vec<Child>,
    /// How often it was started.
    pub(super) boot: u32,
    /// Its id, once it has said so.
    pub(super) peer_id: Option<String>,
    /// It is stopped by SIGSTOP.
    pub(super) paused: bool,
}

impl Node {
    pub(super) fn new(
        number: usize,
        folder: PathBuf,
        binary: PathBuf,
        args: Vec<String>,
        variables: Vec<(String, String)>,
    ) -> Self {
        Self {
            number,
            folder,
            args,
            variables,
            binary,
            services: Vec::new(),
            child: None,
            servers: Vec::new(),
            boot: 0,
            peer_id: None,
            paused: false,
        }
    }

    /// Adds arguments for its starts from now on.
    pub(super) fn add_args(&mut self, args: [String; 2]) {
        self.args.extend(args);
    }

    /// Its door for applications.
    pub(super) fn api(&self) -> Result<Api, RunError> {
        Api::new(&self.data_dir().join("api.sock"))
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.folder.join("d")
    }

    pub(super) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// The ids of its processes.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> + '_ {
        self.child.iter().chain(&self.servers).map(Child::id)
    }

    /// Starts the process. It is ready a while later.
    pub(super) fn start(&mut self, ground: &dyn Ground) -> Result<(), RunError> {
        if self.child.is_some() {
            return Ok(());
        }
        let fail = |error| {
            RunError::io(
                format!("cannot start node {} ({})", self.number, self.binary.display()),
                error,
            )
        };
        std::fs::create_dir_all(&self.folder).map_err(fail)?;
        // A socket of the process before would answer nobody, and look like one that does.
        let _ = std::fs::remove_file(self.data_dir().join("api.sock"));
        let mut command = ground.command(self.number, &self.binary);
        command
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("run")
            .args(&self.args)
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        crate::huge_pages::not_for(&mut command);
        self.child = Some(spawn(command, &self.folder, "log").map_err(fail)?);
        self.boot += 1;
        self.paused = false;
        Ok(())
    }

    /// Offers its services, once it is ready.
    pub(super) fn serve(&mut self, ground: &dyn Ground) -> Result<(), RunError> {
        for service in &self.services {
            let mut command = ground.command(self.number, &self.binary);
            command
                .arg("--data-dir")
                .arg(self.data_dir())
                .args(["serve", service, "--echo"]);
            let child = spawn(command, &self.folder, "serve.log")
                .map_err(|error| RunError::io(format!("cannot offer {service} on node {}", self.number), error))?;
            self.servers.push(child);
        }
        Ok(())
    }

    /// Ends its processes as a power cut would, from their point of view.
    pub(super) fn kill(&mut self) {
        for mut child in self.child.take().into_iter().chain(self.servers.drain(..)) {
            // It may have ended by itself; either way it is waited for.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.paused = false;
    }

    /// Stops it where it stands, or lets it go on.
    pub(super) fn pause(&mut self, on: bool) {
        let signal = if on { Signal::STOP } else { Signal::CONT };
        for pid in self.pids().filter_map(|pid| Pid::from_raw(pid as i32)) {
            // A process that has just ended cannot be stopped any more, nor need it be.
            let _ = kill_process(pid, signal);
        }
        self.paused = on && self.child.is_some();
    }

    /// Whether the process ended by itself; then how, and the end of its log.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        self.kill();
        Some(format!("node {} ended with {status}: {}", self.number, self.log_tail()))
    }

    pub(super) fn log_tail(&self) -> String {
        let tail = || -> std::io::Result<String> {
            let mut file = File::open(self.folder.join("log"))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        tail().unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a process that goes with this program: not by Ctrl-C in the terminal, but by its death.
fn spawn(mut command: Command, folder: &Path, log: &str) -> std::io::Result<Child> {
    use std::os::unix::process::CommandExt as _;

    let log = File::options().create(true).append(true).open(folder.join(log))?;
    command
        .env("HOME", folder)
        .env_remove("WEFT_DATA_DIR")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0);
    // SAFETY: between fork and exec only one system call is made, which allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| {
            let signal = libc::SIGKILL as libc::c_ulong;
            if libc::prctl(libc::PR_SET_PDEATHSIG, signal) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
    command.spawn()
}

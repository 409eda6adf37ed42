//! This program, run once more: each run in virtual time has a process to itself.
//!
//! libp2p counts its connections process-wide, so that a second run in one process would leave another trace.

use std::{
    io::Read as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use super::CliError;
use crate::{
    report::{Mode, Report},
    scenario::Loaded,
};

/// The largest report that is read.
const REPORT_BYTES_MAX: u64 = 512 << 20;

/// The command that runs something again.
pub(crate) fn command(loaded: &Loaded, seed: u64, mode: Mode) -> String {
    let mode = match mode {
        Mode::Virtual => String::new(),
        other => format!(" --mode {}", other.as_str()),
    };
    let sets: String = loaded
        .sets
        .iter()
        .map(|set| format!(" --set {}", quoted(set)))
        .collect();
    format!("weft-sim run {} --seed {seed}{mode}{sets}", quoted(&loaded.named))
}

/// For a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/+:@%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// A run of this program under way.
pub(crate) struct Run {
    child: Child,
}

/// How a run ended.
pub(crate) struct Ended {
    /// Its report, if it came to one.
    pub(crate) report: Option<Report>,
    /// What it said on standard error.
    pub(crate) said: String,
    /// Its exit code; none: a signal.
    pub(crate) code: Option<i32>,
}

impl Run {
    /// Starts `weft-sim run SCENARIO --seed SEED --mode MODE --json`.
    pub(crate) fn start(loaded: &Loaded, seed: u64, mode: Mode) -> Result<Self, CliError> {
        let program = program()?;
        let child = Command::new(&program)
            .arg("run")
            .arg(&loaded.named)
            .args(loaded.sets.iter().flat_map(|set| ["--set", set]))
            .args([
                "--seed",
                &seed.to_string(),
                "--mode",
                mode.as_str(),
                "--json",
                "--quiet",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| CliError::io(format!("cannot start {}", program.display()), error))?;
        Ok(Self { child })
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Result<Ended, CliError> {
        let fail = |error| CliError::io("cannot read what a run of this program says", error);
        let mut stderr = self.child.stderr.take();
        // Both streams are read at once, so that neither fills up while the other is waited for.
        let talk = std::thread::spawn(move || {
            let mut said = String::new();
            if let Some(stderr) = stderr.as_mut() {
                let _ = stderr.take(1 << 20).read_to_string(&mut said);
            }
            said
        });
        let mut document = Vec::new();
        if let Some(stdout) = self.child.stdout.take() {
            stdout.take(REPORT_BYTES_MAX).read_to_end(&mut document).map_err(fail)?;
        }
        let said = talk.join().unwrap_or_default();
        let status = self.child.wait().map_err(fail)?;
        Ok(Ended {
            report: serde_json::from_slice(&document).ok(),
            said: said.trim().to_owned(),
            code: status.code(),
        })
    }
}

impl Ended {
    /// The report, or what was said instead of one.
    pub(crate) fn into_report(self) -> Result<Report, CliError> {
        match self.report {
            Some(report) => Ok(report),
            None if self.said.is_empty() => Err(CliError::Failed("a run of this program ended without a word".into())),
            None => Err(CliError::Failed(self.said)),
        }
    }
}

fn program() -> Result<PathBuf, CliError> {
    std::env::current_exe().map_err(|error| CliError::io("cannot find this program itself", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_can_be_pasted() {
        let mut loaded = crate::scenario::load("hello", &[]).unwrap();
        assert_eq!(command(&loaded, 7, Mode::Virtual), "weft-sim run hello --seed 7");
        loaded.named = "my scenario's.toml".into();
        loaded.sets = vec!["fleet.nodes=9".into(), "name=a b".into()];
        assert_eq!(
            command(&loaded, 7, Mode::Hosts),
            "weft-sim run 'my scenario'\\''s.toml' --seed 7 --mode hosts --set fleet.nodes=9 --set 'name=a b'"
        );
    }
}

//! `weft-sim`: the simulator, of which only the skeleton is here.
//!
//! It will run the unmodified node library on a simulated `Platform`: an in-memory network with latency, bandwidth, loss
//! and cuts per link, a disk that forgets what was not synced, and virtual time, repeatable from a seed.

use std::{io::Write as _, process::ExitCode};

use clap::Parser;

/// Runs meshes of real nodes in virtual time. Not usable yet: this build only says what it will do.
#[derive(Debug, Parser)]
#[command(name = "weft-sim", version)]
struct Cli {
    /// What to simulate
    scenario: Option<std::path::PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut stderr = std::io::stderr().lock();
    let _ = match cli.scenario {
        Some(path) => writeln!(
            stderr,
            "weft-sim: cannot run {}: the simulator is not part of this version yet",
            path.display()
        ),
        None => writeln!(
            stderr,
            "weft-sim will run thousands of real nodes in virtual time, repeatable from a seed.\nIt is not part of this version yet; for a mesh on this machine start several nodes:\n  weft --data-dir /tmp/b run --join \"$(weft invite)\" --api 127.0.0.1:0"
        ),
    };
    ExitCode::from(1)
}

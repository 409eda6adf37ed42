//! A mesh of processes under load and one fault after another; then what was promised is checked over the recorded history.
//!
//! `tests/faults/run` installs what it needs and starts it. Ends with 1 when a promise was broken.

#![expect(clippy::print_stdout, reason = "the figures are the output")]
#![expect(clippy::print_stderr, reason = "what goes on is told while it goes on")]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{
    Parser,
    builder::{PossibleValuesParser, TypedValueParser as _},
};
use weft_tests::faults::{self, Plan, fault::Fault};

/// A mesh of processes under load, one fault after another, and a check of the recorded history
#[derive(Debug, Parser)]
struct Args {
    /// Nodes of the mesh
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(3..=9))]
    nodes: u64,
    /// How long faults follow each other; each kind comes at least once
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Which node is struck when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the history is written, an object of JSON a line
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// A folder for detailed logs of the nodes
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// What is done; without any, all that is possible here
    #[arg(value_parser = PossibleValuesParser::new(Fault::ALL.map(Fault::name)).map(|name| by_name(&name)))]
    faults: Vec<Fault>,
}

fn by_name(name: &str) -> Fault {
    let found = Fault::ALL.into_iter().find(|fault| fault.name() == name);
    found.expect("the possible values are the names")
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut wanted = args.faults;
    if wanted.is_empty() {
        wanted = Fault::ALL.to_vec();
    }
    wanted.retain(|fault| match fault.possible() {
        Ok(()) => true,
        Err(why) => {
            eprintln!("SKIPPED tests/faults: {}: {why}", fault.name());
            false
        }
    });
    if wanted.is_empty() {
        return ExitCode::from(77);
    }
    let plan = Plan {
        nodes: usize::try_from(args.nodes).unwrap_or(5),
        time: Duration::from_secs(args.seconds),
        seed: args.seed,
        faults: wanted,
        history: args.history,
        logs: args.logs,
    };
    let began = std::time::Instant::now();
    let report = faults::run(&plan, &mut |what| {
        eprintln!("{:>6.1} s  {what}", began.elapsed().as_secs_f64())
    });
    for (fault, times) in &report.faults {
        println!("{:<36} {times:>8}", format!("fault: {}", fault.name()));
    }
    for (figure, count) in &report.figures {
        println!("{figure:<36} {count:>8}");
    }
    println!(
        "{:<36} {:>8.1}",
        "longest until all was well again (s)", report.healed_after_s
    );
    println!("{:<36} {:>8}", "promises broken", report.broken.len());
    for broken in report.broken.iter().take(20) {
        println!("BROKEN  {broken}");
    }
    ExitCode::from(u8::from(!report.broken.is_empty()))
}

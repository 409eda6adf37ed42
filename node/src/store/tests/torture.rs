use super::super::torture::{Acked, PowerCuts, Victim, WRITER_DIR, check, power_cut, writer};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Not a check of its own: what the other tests here start as a process to be broken.
#[test]
fn victim() {
    if let Some(dir) = std::env::var_os(WRITER_DIR) {
        writer(Path::new(&dir)).unwrap();
    }
}

/// This very binary, asked for that test alone; the name is the module's path without the crate.
fn victim_command() -> (PathBuf, Vec<String>) {
    let module = module_path!().split_once("::").map_or("", |(_, module)| module);
    let arguments = [
        format!("{module}::victim"),
        "--exact".to_string(),
        "--nocapture".to_string(),
    ];
    (std::env::current_exe().unwrap(), arguments.to_vec())
}

/// Moments spread over the interval, the same in every run.
fn moment(cycle: u64, longest: Duration) -> Duration {
    let scrambled = (cycle + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    longest * (scrambled % 1000) as u32 / 1000
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let (program, arguments) = victim_command();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let cycles = std::env::var("WEFT_KILL_CYCLES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(20);
    let mut before = Acked::default();
    for cycle in 0..cycles {
        let mut victim = Victim::start(&program, &arguments, folder.path()).unwrap();
        // Most are killed at work; every fourth while it is starting.
        let deadline = Instant::now() + Duration::from_secs(60);
        while cycle % 4 != 0 && victim.acked() == Acked::default() {
            assert!(
                victim.is_running() && Instant::now() < deadline,
                "cycle {cycle}: the writer does not get to work"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(moment(cycle, Duration::from_millis(120)));
        let said = victim.kill().unwrap();
        let acked = Acked {
            log: said.log.max(before.log),
            keys: said.keys.max(before.keys),
        };
        let found = check(folder.path(), acked).unwrap_or_else(|error| panic!("cycle {cycle}: {error}"));
        before = Acked {
            log: found.log,
            keys: found.keys,
        };
    }
    assert!(
        before.log > cycles && before.keys > 0,
        "the writers did no work: {before:?}"
    );
}

#[test]
#[ignore = "needs root and loop devices: run it by name, with WEFT_POWER_CUTS for the number of cuts"]
fn nothing_acknowledged_is_lost_by_power_cuts() {
    let (program, arguments) = victim_command();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let cycles = std::env::var("WEFT_POWER_CUTS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(25);
    for file_system in ["ext4", "xfs"] {
        let pause = |cycle| Duration::from_millis(60) + moment(cycle, Duration::from_millis(400));
        let cuts = power_cut(cycles, file_system, &program, &arguments, pause).unwrap();
        match &cuts {
            PowerCuts::Skipped(reason) => say(&format!("SKIPPED {file_system}: {reason}")),
            PowerCuts::Survived { cuts, acked } => {
                say(&format!("{file_system}: {cuts} cuts, {acked} acknowledged, 0 lost"));
                assert!(*acked > 0, "the writers did no work");
            }
        }
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn say(text: &str) {
    eprintln!("{text}");
}

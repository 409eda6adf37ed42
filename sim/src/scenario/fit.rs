//! Whether a fleet fits into the memory of this machine, before it is tried.
//!
//! An estimate from measurements, on the low side: what is refused here would surely not fit, what passes may still be slow.

use std::fmt::Write as _;

use super::Scenario;
use crate::report::Mode;

/// A node in virtual time with the default eight neighbours, at rest.
const VIRTUAL_NODE_BYTES: u64 = 400 << 10;
/// A process of the shipped program, at rest.
const PROCESS_NODE_BYTES: u64 = 16 << 20;
/// What the program itself takes.
const BASE_BYTES: u64 = 64 << 20;

/// Bytes this scenario needs at least, run this way.
pub fn memory_needed(scenario: &Scenario, mode: Mode) -> u64 {
    let attackers: usize = scenario.attacks.iter().map(|attack| attack.attackers).sum();
    let each = match mode {
        Mode::Virtual => VIRTUAL_NODE_BYTES,
        Mode::Processes | Mode::Hosts => PROCESS_NODE_BYTES,
    };
    ((scenario.nodes() + attackers) as u64)
        .saturating_mul(each)
        .saturating_add(BASE_BYTES)
}

/// Bytes of memory this machine can give: what is available now, and not more than the control group allows.
pub fn memory_available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    let available = kib.saturating_mul(1024);
    Some(group.map_or(available, |limit| limit.min(available)))
}

/// Why a scenario does not fit into so many bytes; none when it may.
pub fn unfit(scenario: &Scenario, mode: Mode, available: u64) -> Option<String> {
    let needed = memory_needed(scenario, mode);
    if needed <= available {
        return None;
    }
    let mib = |bytes: u64| bytes >> 20;
    let mut text = format!(
        "{} nodes need at least {} MiB of memory in mode {}, and {} MiB are available here",
        scenario.nodes(),
        mib(needed),
        mode.as_str(),
        mib(available)
    );
    let _ = match mode {
        Mode::Virtual => write!(text, "; `weft-sim export` writes it for machines that outgrow this one"),
        Mode::Processes | Mode::Hosts => write!(text, "; in virtual time a node takes a small part of that"),
    };
    Some(text)
}

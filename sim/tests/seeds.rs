//! A fixed set of seeds of the shipped scenarios that run in seconds: faults first, then none, and it must heal.
//!
//! Longer: `weft-sim run churn --seeds 1..1000`, and so for each that `weft-sim scenarios` lists.

#![allow(clippy::unwrap_used)]

use std::process::Command;

/// Runs two seeds of a shipped scenario; each in a process of its own, as the sweep does it.
fn sweep(scenario: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_weft-sim"))
        .args(["run", scenario, "--seeds", "1..2"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{scenario}: {said}");
    assert!(said.contains("2 of 2 seeds passed"), "{scenario}: {said}");
}

#[test]
fn disks_that_lie_lose_nothing_that_was_acknowledged() {
    sweep("power-cut");
}

#[test]
fn who_cannot_be_dialled_is_reached_through_relays() {
    sweep("relay-island");
}

#[test]
fn two_halves_become_one_mesh_again() {
    sweep("islands");
}

#[test]
fn two_versions_understand_each_other() {
    sweep("upgrade");
}

#[test]
fn a_slow_link_slows_nobody_else() {
    sweep("slow-link");
}

//! What is refused, and how parts are counted. Whole runs with processes are in the tests of the program.

use std::collections::HashMap;

use super::{refuse, sample::components};
use crate::{report::Mode, scenario::parse};

fn refusal(text: &str, mode: Mode) -> String {
    let scenario = parse("x", &format!("duration = \"60s\"\n[fleet.a]\ncount = 4\n{text}")).unwrap();
    refuse(&scenario, mode).map_or_else(|error| error.to_string(), |()| "fine".to_owned())
}

#[test]
fn what_a_mode_cannot_do_is_refused_with_what_can() {
    let partition = "[[fault]]\nkind = \"partition\"\nat = \"5s\"\n";
    assert_eq!(
        refusal(partition, Mode::Processes),
        "mode processes has no links to break (fault partition): --mode hosts has them, and --mode virtual"
    );
    assert_eq!(refusal(partition, Mode::Hosts), "fine");
    assert_eq!(
        refusal("[[fault]]\nkind = \"bit-flip\"\nat = \"5s\"\n", Mode::Hosts),
        "mode hosts has no faults of the kind bit-flip: run it in virtual time (--mode virtual)"
    );
    assert_eq!(
        refusal("nat = \"symmetric\"\n", Mode::Processes),
        "mode processes has no NAT (group a): --mode hosts has it, and --mode virtual"
    );
    assert_eq!(
        refusal("[[attack]]\nkind = \"sybil\"\nattackers = 3\n", Mode::Hosts),
        "mode hosts has no attackers (attack sybil): run it in virtual time (--mode virtual)"
    );
    assert_eq!(
        refusal("clock_skew = \"1h\"\n", Mode::Hosts),
        "mode hosts has no calendars of its own (clock_skew of the group a): run it in virtual time (--mode virtual)"
    );
    assert_eq!(
        refusal("[[fault]]\nkind = \"kill\"\nat = \"5s\"\n", Mode::Processes),
        "fine"
    );
}

#[test]
fn a_check_of_what_is_not_measured_is_refused() {
    let bytes = "[[check]]\nkind = \"bytes-per-node\"\nmax = 9\n";
    assert_eq!(
        refusal(bytes, Mode::Processes),
        "mode processes has no count of a node's bytes (check bytes-per-node): --mode hosts has it, and --mode virtual"
    );
    assert_eq!(refusal(bytes, Mode::Hosts), "fine");
    for mode in [Mode::Processes, Mode::Hosts] {
        assert_eq!(
            refusal("[[check]]\nkind = \"duplicate-ratio\"\nmax = 9\n", mode),
            "fine"
        );
    }
}

#[test]
fn the_founder_must_be_reachable_and_an_open_mesh_has_no_roles() {
    assert_eq!(
        refusal("nat = \"symmetric\"\n", Mode::Hosts),
        "mode hosts has no way to a founder behind NAT (group a, where node 0 is): put a group without NAT first"
    );
    let open = format!(
        "open = true\n{}",
        "duration = \"60s\"\n[fleet.a]\ncount = 4\nrole = \"worker\"\n"
    );
    let refused = refuse(&parse("x", &open).unwrap(), Mode::Processes).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "mode processes has no roles in an open mesh (role of the group a): leave out open, or the roles"
    );
}

#[test]
fn a_link_that_one_side_sees_is_a_link() {
    let mut neighbours: HashMap<u32, Vec<u32>> = HashMap::from([(0, vec![1]), (1, vec![]), (2, vec![9]), (3, vec![2])]);
    assert_eq!(components(&neighbours), 2);
    neighbours.insert(1, vec![3]);
    assert_eq!(components(&neighbours), 1);
    assert_eq!(components(&HashMap::new()), 0);
}

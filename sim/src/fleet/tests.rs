use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    network::Links,
    scenario::{Latency, Link, Nat},
    virtual_os,
};

const S: Duration = Duration::from_secs(1);

fn plan(name: &str, neighbours: Vec<HostId>) -> Plan {
    Plan {
        name: name.to_owned(),
        role: None,
        config: BTreeMap::new(),
        neighbours,
        connection_target: 1,
        agent: None,
        scoring: false,
        directory_max: None,
        clock_skew_ms: 0,
        attacks: None,
    }
}

/// Waits until two nodes have so many connections with each other, at most five minutes of their time.
async fn connected(fleet: &Fleet, wanted: usize) {
    let until = Instant::now() + S * 300;
    let count = |host| {
        fleet
            .running(host)
            .map_or(0, |running| running.node.mesh().peers().ids().len())
    };
    while (0..2).any(|host| fleet.is_awake(host) && count(host) != wanted) {
        assert!(Instant::now() < until, "{} and {}", count(0), count(1));
        sleep(S / 10).await;
    }
}

/// Two nodes that are connected, twenty milliseconds from each other.
fn in_virtual_time(test: impl AsyncFnOnce(Arc<Network>, Fleet)) {
    let _guard = virtual_os::enter(5);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .on_thread_unpark(virtual_os::catch_up)
        .build()
        .unwrap();
    runtime.block_on(async {
        virtual_os::follow_tokio();
        let link = Link {
            latency: Latency::Constant(S / 50),
            jitter: Duration::ZERO,
            bandwidth_bits: None,
            loss: 0.0,
            reorder: 0.0,
        };
        let network = Network::new(5, &[Nat::None; 2], Links::new(5, link));
        let tasks = Tasks::new();
        tasks.spawn("network", Arc::clone(&network).run());
        let plans = vec![plan("a", vec![]), plan("b", vec![0])];
        let mut fleet = Fleet::new(Arc::clone(&network), 5, false, plans).unwrap();
        for host in 0..2 {
            fleet.start(host).await.unwrap();
        }
        connected(&fleet, 1).await;
        test(network, fleet).await;
    });
}

#[test]
fn a_node_that_stands_still_says_nothing_is_given_up_and_comes_back() {
    in_virtual_time(async |network, mut fleet| {
        let sent = |host| network.traffic(host).bytes_sent;
        let before = sent(1);
        sleep(S * 60).await;
        assert!(sent(1) > before, "it says that it is alive");
        fleet.pause(1, true);
        let before = (sent(0), sent(1));
        connected(&fleet, 0).await;
        sleep(S * 30).await;
        assert_eq!(sent(1), before.1, "not a byte");
        assert!(sent(0) > before.0, "the other one asks after it");
        assert!(!fleet.is_awake(1) && fleet.running(1).is_some());
        fleet.pause(1, false);
        connected(&fleet, 1).await;
        assert!(sent(1) > before.1);
        // What stands still can be killed, and what is started then does not.
        fleet.pause(1, true);
        let killed_at = Instant::now();
        fleet.kill(1).await;
        assert!(killed_at.elapsed() < S, "{:?}", killed_at.elapsed());
        fleet.start(1).await.unwrap();
        assert!(fleet.is_awake(1));
        connected(&fleet, 1).await;
    });
}

/// Round trips that a node has measured.
fn round_trips(fleet: &Fleet, host: HostId) -> u64 {
    let metrics = fleet.running(host).unwrap().node.metrics().encode();
    let count = metrics
        .lines()
        .find_map(|line| line.strip_prefix("weft_mesh_round_trip_seconds_count "));
    count.expect("the metric").parse().unwrap()
}

#[test]
fn two_nodes_take_turns_in_asking_whether_the_other_is_there() {
    in_virtual_time(async |_, fleet| {
        sleep(S * 30).await;
        let before = [0, 1].map(|host| round_trips(&fleet, host));
        sleep(S * 120).await;
        let after = [0, 1].map(|host| round_trips(&fleet, host));
        let asked = [after[0] - before[0], after[1] - before[1]];
        assert!(asked.iter().all(|times| (13..=17).contains(times)), "{asked:?}");
    });
}

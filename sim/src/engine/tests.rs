//! The thread that simulates is closed to the world: what would leak in is shown to change the digest.

use super::*;
use crate::run::Nobody;

const SCENARIO: &str = r#"
name = "two"
about = "Two nodes meet, one publishes and calls."
duration = "15s"
[fleet]
nodes = 2
[topology]
kind = "line"
[[workload]]
name = "news"
kind = "publish"
senders = 1
rate = "1/s"
start = "5s"
[[workload]]
name = "greet"
kind = "call"
senders = 1
rate = "1/s"
start = "5s"
[[check]]
kind = "delivery-ratio"
min = 1.0
[[check]]
kind = "answered"
min = 1.0
[[check]]
kind = "no-duplicates"
"#;

/// Simulates in this process, with `leak` called on the simulating thread between two nodes' doings.
fn hash_with(leak: Option<fn() -> u64>) -> String {
    let leak = leak.map(|leak| {
        let leaked = leak();
        move |network: &crate::network::Network| network.note(&[leaked], &[])
    });
    let network = {
        let _guard = virtual_os::enter(1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let scenario = crate::scenario::parse("two.toml", SCENARIO).unwrap();
        let network = runtime.block_on(async {
            let links = crate::network::Links::new(1, scenario.links.default.clone());
            crate::network::Network::new(1, &[], links)
        });
        network.note(&[virtual_os::calendar_ms()], &[]);
        network
    };
    if let Some(leak) = leak {
        leak(&network);
    }
    network.trace().hash()
}

#[test]
fn two_nodes_connect_publish_and_call() {
    let scenario = crate::scenario::parse("two.toml", SCENARIO).unwrap();
    let report = run(&scenario, 3, Arc::new(Nobody), &Cancel::default()).unwrap();
    assert!(report.passed(), "{:#?}", report.checks);
    assert_eq!(report.hops.first().copied().unwrap_or(0), 0);
    assert!(report.hops[1] > 5, "{:?}", report.hops);
    let second = run(&scenario, 3, Arc::new(Nobody), &Cancel::default()).unwrap_err();
    assert!(second.to_string().contains("another"), "{second}");
}

#[test]
fn a_real_clock_or_real_entropy_that_slips_in_would_show() {
    // Past the C library, as no test of the symbols themselves would notice.
    fn clock() -> u64 {
        virtual_os::real_seconds(libc::CLOCK_MONOTONIC).to_bits()
    }
    fn entropy() -> u64 {
        let mut bytes = [0_u8; 8];
        // SAFETY: the kernel writes eight bytes where there is room for them.
        unsafe { libc::syscall(libc::SYS_getrandom, bytes.as_mut_ptr(), bytes.len(), 0) };
        u64::from_ne_bytes(bytes)
    }
    assert_eq!(hash_with(None), hash_with(None));
    assert_ne!(hash_with(Some(clock)), hash_with(Some(clock)));
    assert_ne!(hash_with(Some(entropy)), hash_with(Some(entropy)));
}

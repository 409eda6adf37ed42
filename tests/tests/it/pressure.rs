//! Memory stays within its budget under pressure, and the node goes on serving.

use weft_tests::pressure::{Figure, Pressure, exert};

#[track_caller]
fn holds(pressure: Pressure) {
    let figure = exert(pressure);
    let Figure {
        rss_bytes,
        limit_bytes,
        calls,
        requests,
        killed,
    } = figure;
    assert_eq!(killed.unwrap_or(0), 0, "{pressure:?}: the kernel killed the node");
    assert!(
        rss_bytes <= limit_bytes,
        "{pressure:?}: {} of {} MiB",
        rss_bytes >> 20,
        limit_bytes >> 20
    );
    assert!(calls.0 > 0, "{pressure:?}: calls answered and not: {calls:?}");
    assert!(requests.0 > 0, "{pressure:?}: requests answered and not: {requests:?}");
}

#[test]
fn streams_that_are_left_alone() {
    holds(Pressure::Streams);
}

#[test]
fn a_hundred_thousand_subscriptions() {
    holds(Pressure::Subscriptions);
}

#[test]
fn large_messages_as_fast_as_they_go() {
    holds(Pressure::Gossip);
}

#[test]
fn ten_thousand_half_handshakes() {
    holds(Pressure::Handshakes);
}

#[test]
fn ten_thousand_slow_clients_of_the_api() {
    holds(Pressure::SlowClients);
}

use super::*;

fn connection(address: &str, rtt_ms: u64) -> ConnectionInfo {
    let address: Multiaddr = address.parse().unwrap();
    ConnectionInfo {
        carrier: Carrier::of(&address),
        address,
        inbound: false,
        rtt: Some(Duration::from_millis(rtt_ms)),
        goodput_bytes_per_s: None,
        since_ms: 0,
        doubted: false,
        probed: None,
    }
}

const QUIC: &str = "/ip4/192.0.2.1/udp/7400/quic-v1";
const TCP: &str = "/ip4/192.0.2.1/tcp/7400";

fn id(number: usize) -> ConnectionId {
    ConnectionId::new_unchecked(number)
}

fn table(connections: &[(usize, ConnectionInfo)]) -> (PeerTable, PeerId) {
    let (table, peer) = (PeerTable::new(), PeerId::random());
    for (number, info) in connections {
        table.opened(peer, id(*number), info.clone(), "");
    }
    (table, peer)
}

#[test]
fn the_shorter_round_trip_is_better_and_a_direct_connection_before_a_relayed_one() {
    let relayed = connection("/ip4/192.0.2.9/tcp/7400/p2p-circuit", 1);
    let (table, peer) = table(&[(1, relayed), (2, connection(QUIC, 40)), (3, connection(TCP, 20))]);
    assert_eq!(table.choose(&peer), Some(id(3)));
    table.doubt(&peer, id(3));
    assert_eq!(table.choose(&peer), Some(id(2)));
    table.doubt(&peer, id(2));
    assert_eq!(
        table.choose(&peer),
        Some(id(1)),
        "a relay that answers before what does not"
    );
}

#[test]
fn what_carries_more_is_better_once_both_are_measured() {
    let (table, peer) = table(&[(1, connection(QUIC, 60)), (2, connection(TCP, 61))]);
    assert_eq!(table.choose(&peer), Some(id(1)));
    table.carried(&peer, id(2), 3e6);
    assert_eq!(table.choose(&peer), Some(id(1)), "of the other nothing is known yet");
    table.carried(&peer, id(1), 2e5);
    assert_eq!(table.choose(&peer), Some(id(2)));
}

#[test]
fn the_choice_stays_until_another_is_clearly_better() {
    let (table, peer) = table(&[(1, connection(QUIC, 50)), (2, connection(TCP, 55))]);
    assert_eq!(table.choose(&peer), Some(id(1)));
    table.measured(&peer, id(1), Duration::from_millis(130), 0);
    assert_eq!(
        table.get(&peer).unwrap().connections[&id(1)].rtt,
        Some(Duration::from_millis(60))
    );
    assert_eq!(table.choose(&peer), Some(id(1)), "60 against 55 is no reason");
    for _ in 0..8 {
        table.measured(&peer, id(1), Duration::from_millis(200), 0);
    }
    assert_eq!(table.choose(&peer), Some(id(2)));
    table.closed(&peer, id(2));
    assert_eq!(table.choose(&peer), Some(id(1)));
}

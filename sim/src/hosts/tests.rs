//! The links without devices; where packets go; and, as root, two hosts and a WAN.

use std::{net::UdpSocket, time::Duration};

use super::{emulator::destination, wan::Wan, *};
use crate::{
    network::Links,
    scenario::{Latency, Link},
};

const MS: u64 = 1_000_000;

fn link() -> Link {
    Link {
        latency: Latency::Constant(Duration::from_millis(50)),
        jitter: Duration::ZERO,
        bandwidth_bits: None,
        loss: 0.0,
        reorder: 0.0,
    }
}

fn wan(link: Link) -> Wan {
    Wan::new(1, 3, Links::new(1, link))
}

fn arrivals(wan: &mut Wan, until_ns: u64) -> Vec<(u64, u8)> {
    std::iter::from_fn(|| wan.arrived(until_ns))
        .map(|packet| (packet.due_ns / MS, packet.bytes[0]))
        .collect()
}

#[test]
fn a_packet_arrives_when_its_time_has_come() {
    let mut wan = wan(link());
    wan.take(0, 1, &[7; 100], 10 * MS);
    assert_eq!(wan.next_ns(), Some(60 * MS));
    assert_eq!(arrivals(&mut wan, 59 * MS), []);
    assert_eq!(arrivals(&mut wan, 60 * MS), [(60, 7)]);
    assert_eq!(wan.traffic(), [(100, 0), (0, 100), (0, 0)]);
}

#[test]
fn order_is_kept_in_spite_of_jitter_unless_packets_may_overtake() {
    let jittery = Link {
        jitter: Duration::from_millis(40),
        ..link()
    };
    let mut kept = wan(jittery.clone());
    (0..100).for_each(|n| kept.take(0, 1, &[n], u64::from(n) * MS));
    let numbers: Vec<u8> = arrivals(&mut kept, 1000 * MS).into_iter().map(|(_, n)| n).collect();
    assert_eq!(numbers, (0..100).collect::<Vec<u8>>());
    let mut free = wan(Link {
        reorder: 1.0,
        ..jittery
    });
    (0..100).for_each(|n| free.take(0, 1, &[n], u64::from(n) * MS));
    let numbers: Vec<u8> = arrivals(&mut free, 1000 * MS).into_iter().map(|(_, n)| n).collect();
    assert_ne!(numbers, (0..100).collect::<Vec<u8>>());
    assert_eq!(numbers.len(), 100);
}

#[test]
fn a_narrow_link_is_a_queue_and_a_full_queue_drops() {
    let mut wan = wan(Link {
        bandwidth_bits: Some(1_000_000),
        ..link()
    });
    // A megabit a second is 125 bytes a millisecond, headers and all.
    (0..200).for_each(|n| wan.take(0, 1, &[n; 1000], 0));
    let came = arrivals(&mut wan, 10_000 * MS);
    assert!((40..60).contains(&came.len()), "{}", came.len());
    assert!(came[10].0 - came[0].0 >= 80, "{came:?}");
    assert_eq!(wan.dropped().0, 0);
    assert_eq!(wan.dropped().1 as usize, 200 - came.len());
}

#[test]
fn loss_walls_and_missing_links_lose_packets_and_nothing_else_does() {
    let mut lossy = wan(Link { loss: 0.2, ..link() });
    (0..10_000_u64).for_each(|n| lossy.take(0, 1, &[1], n));
    let lost = lossy.dropped().0;
    assert!((1_850..2_150).contains(&lost), "{lost}");
    let mut walled = wan(link());
    walled.add_wall(1, Wall::Apart(HostSet::of([2])));
    walled.take(0, 2, &[1], 0);
    walled.take(0, 1, &[2], 0);
    walled.remove_wall(1);
    walled.take(0, 2, &[3], 0);
    walled.restrict_to([(0, 1)].into_iter());
    walled.take(2, 0, &[4], 0);
    walled.take(1, 0, &[5], 0);
    assert_eq!(arrivals(&mut walled, 60 * MS), [(50, 2), (50, 3), (50, 5)]);
}

#[test]
fn a_packet_says_where_it_goes_and_garbage_says_nothing() {
    let mut four = [0_u8; 20];
    four[0] = 0x45;
    four[16..20].copy_from_slice(&[198, 18, 0, 3]);
    assert_eq!(destination(&four), Some(wan_ip4(2).into()));
    let mut six = [0_u8; 40];
    six[0] = 0x60;
    six[24..40].copy_from_slice(&wan_ip6(2).octets());
    assert_eq!(destination(&six), Some(wan_ip6(2).into()));
    for garbage in [&[][..], &[0x45], &[0x60; 39], &[0x45; 19], &[0xff; 60]] {
        assert_eq!(destination(garbage), None);
    }
}

#[test]
fn the_rules_differ_by_nat() {
    assert!(namespace::rules(Nat::Symmetric).contains("fully-random"));
    assert!(!namespace::rules(Nat::Restricted).contains("random"));
    assert!(namespace::rules(Nat::FullCone).contains("dnat to 10.77.0.2"));
}

/// A socket in a host's namespace.
fn socket(spaces: &Namespaces, host: usize, address: &str) -> UdpSocket {
    let space = spaces.open(host).unwrap();
    let address = address.to_owned();
    let made = std::thread::spawn(move || {
        tun::enter(&space).unwrap();
        UdpSocket::bind(address).unwrap()
    });
    let socket = made.join().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

#[test]
fn two_hosts_and_a_router_speak_over_the_emulator() {
    if let Err(reason) = namespace::check() {
        eprintln_skip(&reason.to_string());
        return;
    }
    let scenario = crate::scenario::parse(
        "hosts",
        "duration = \"9s\"\n[fleet.a]\ncount = 2\n[fleet.b]\ncount = 1\nnat = \"restricted\"\n[topology]\nkind = \"clique\"\n[links]\nlatency = \"30ms\"\n",
    )
    .unwrap();
    let mut hosts = match Hosts::new(&scenario, 1) {
        Ok(hosts) => hosts,
        Err(reason) => return eprintln_skip(&reason.to_string()),
    };
    let (a, b) = (
        socket(&hosts.namespaces, 0, "0.0.0.0:5000"),
        socket(&hosts.namespaces, 1, "0.0.0.0:5000"),
    );
    let inside = socket(&hosts.namespaces, 2, "0.0.0.0:5000");
    let began = std::time::Instant::now();
    a.send_to(b"there", (wan_ip4(1), 5000)).unwrap();
    let mut buffer = [0; 64];
    let (length, from) = b.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.ip()), (&b"there"[..], wan_ip4(0).into()));
    assert!(began.elapsed() >= Duration::from_millis(30), "{:?}", began.elapsed());
    // From behind the NAT it comes from the router, and the answer finds its way in.
    inside.send_to(b"out", (wan_ip4(0), 5000)).unwrap();
    let (_, from) = a.recv_from(&mut buffer).unwrap();
    assert_eq!(from.ip(), wan_ip4(2));
    a.send_to(b"in", from).unwrap();
    assert_eq!(inside.recv_from(&mut buffer).unwrap().0, 2);
    // A wall, and no wall.
    hosts.apply(&Step::Islands(1, vec![0, 1, 0])).unwrap();
    a.send_to(b"lost", (wan_ip4(1), 5000)).unwrap();
    // On the same path, and after it: when this is there, that would have been.
    let lost = || hosts.emulator.change(|wan| wan.dropped().0) > 0;
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !lost() {
        assert!(std::time::Instant::now() < deadline, "the wall let it through");
        std::thread::yield_now();
    }
    hosts.apply(&Step::Join(1)).unwrap();
    a.send_to(b"again", (wan_ip4(1), 5000)).unwrap();
    let (length, _) = b.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"again");
    let tag = hosts.namespaces.host(0);
    drop(hosts);
    assert!(tun::space(&tag).is_err(), "the namespace is still there");
}

#[expect(clippy::print_stderr, reason = "a test that cannot run here says why")]
fn eprintln_skip(reason: &str) {
    eprintln!("not run: {reason}");
}

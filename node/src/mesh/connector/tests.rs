use super::*;

fn address(n: u16) -> Multiaddr {
    format!("/ip4/192.0.2.1/tcp/{n}").parse().unwrap()
}

fn connector() -> Connector {
    Connector::new(PeerId::random(), 8, 7)
}

#[test]
fn a_dead_bootstrap_address_is_tried_again_with_growing_bounded_pauses() {
    let mut c = connector();
    let peer = PeerId::random();
    let start = Instant::now();
    c.add(peer, &[address(1)], Reason::Bootstrap, start);
    let mut now = start;
    let mut dials = 0;
    while now < start + Duration::from_secs(120) {
        for dial in c.due(now) {
            assert_eq!(dial.peer, peer);
            dials += 1;
            c.on_failed(&peer, now);
        }
        now += Duration::from_millis(100);
    }
    assert!((20..120).contains(&dials), "{dials} dials in two minutes");
}

#[test]
fn a_cut_of_any_length_heals_soon() {
    let mut c = connector();
    let now = Instant::now();
    let peers: Vec<PeerId> = (0..20).map(|_| PeerId::random()).collect();
    let friend = PeerId::random();
    c.on_connected(friend, now);
    for (n, peer) in peers.iter().enumerate() {
        c.add(*peer, &[address(n as u16)], Reason::Member, now);
    }
    let mut t = now;
    // An hour in which nobody answers.
    while t < now + Duration::from_secs(3600) {
        for dial in c.due(t) {
            c.on_failed(&dial.peer, t);
        }
        t += Duration::from_millis(250);
    }
    // Then all answer.
    let healed = t;
    let mut connected = HashSet::new();
    while connected.len() < 7 {
        for dial in c.due(t) {
            c.on_connected(dial.peer, t);
            connected.insert(dial.peer);
        }
        t += Duration::from_millis(100);
        assert!(
            t < healed + Duration::from_secs(10),
            "only {} of 7 after 10 s",
            connected.len()
        );
    }
}

#[test]
fn no_more_dials_than_the_bound_and_none_to_oneself() {
    let mut c = connector();
    let now = Instant::now();
    c.add(c.local, &[address(1)], Reason::Bootstrap, now);
    for n in 0..100 {
        c.add(PeerId::random(), &[address(n)], Reason::Member, now);
    }
    // Some of them are left to dial us, for a moment.
    let now = now + COURTESY;
    assert_eq!(c.due(now).len(), DIALS_MAX);
    assert_eq!(c.due(now).len(), 0);
    assert!(!c.tried_all(&HashSet::new()));
}

#[test]
fn enough_connections_are_enough() {
    let mut c = connector();
    let now = Instant::now();
    for _ in 0..8 {
        c.on_connected(PeerId::random(), now);
    }
    c.add(PeerId::random(), &[address(1)], Reason::Member, now);
    assert!(c.due(now).is_empty());
}

#[test]
fn a_hint_that_leads_nowhere_is_forgotten() {
    let mut c = connector();
    let mut now = Instant::now();
    c.add(PeerId::random(), &[address(1)], Reason::Hint, now);
    for _ in 0..1000 {
        for dial in c.due(now) {
            c.on_failed(&dial.peer, now);
        }
        now += Duration::from_millis(100);
    }
    assert!(c.candidates.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_address_where_somebody_else_answers_is_left_out_for_a_while() {
    let now = Instant::now();
    let (peer, mut connector) = (PeerId::random(), Connector::new(PeerId::random(), 10, 1));
    let (wrong, right): (Multiaddr, Multiaddr) = (
        "/ip4/127.0.0.1/tcp/7400".parse().unwrap(),
        "/ip4/192.0.2.1/tcp/7400".parse().unwrap(),
    );
    connector.add(peer, &[wrong.clone(), right.clone()], Reason::Bootstrap, now);
    assert!(
        connector.mistaken(&peer, &wrong.clone().with_p2p(peer).unwrap(), now),
        "another address is left"
    );
    assert_eq!(connector.addresses(&peer, now).unwrap(), std::slice::from_ref(&right));
    connector.add(peer, &[wrong.clone(), right.clone()], Reason::Member, now);
    assert_eq!(
        connector.due(now),
        [Dial {
            peer,
            addresses: vec![right.clone()]
        }]
    );
    assert!(
        !connector.mistaken(&peer, &wrong, now),
        "the same again is no news: no dial without a pause"
    );
    assert!(!connector.mistaken(&peer, &right, now), "nothing is left to dial");
    assert_eq!(
        connector.addresses(&peer, now + MISTAKEN_PAUSE).unwrap(),
        [wrong, right]
    );
}

/// A connector that was told of so many members, as often as they are in the directory.
fn of_a_large_mesh(peers: &[PeerId], now: Instant) -> Connector {
    let mut c = connector();
    tell(&mut c, peers, now);
    c
}

fn tell(c: &mut Connector, peers: &[PeerId], now: Instant) {
    for (n, peer) in peers.iter().enumerate() {
        c.add(*peer, &[address(n as u16)], Reason::Member, now);
    }
}

#[test]
fn of_a_large_mesh_every_member_has_the_same_chance() {
    let (now, mut later) = (Instant::now(), 0);
    let mut peers: Vec<PeerId> = (0..1000).map(|_| PeerId::random()).collect();
    peers.sort_unstable();
    for seed in 1..=20 {
        let mut c = Connector::new(PeerId::random(), 8, seed * 77);
        tell(&mut c, &peers, now);
        let known: Vec<_> = peers.iter().filter(|peer| c.addresses(peer, now).is_some()).collect();
        assert_eq!(known.len(), MEMBERS_MAX);
        later += known.iter().filter(|peer| **peer >= &peers[500]).count();
        // Whom the user named has a place all the same.
        let named = PeerId::random();
        c.add(named, &[address(1)], Reason::Bootstrap, now);
        assert!(c.addresses(&named, now).is_some());
    }
    let share = later as f64 / (20 * MEMBERS_MAX) as f64;
    assert!((0.45..0.55).contains(&share), "{share} of them are of the second half");
}

#[test]
fn the_few_of_a_large_mesh_that_answer_are_found() {
    let now = Instant::now();
    let peers: Vec<PeerId> = (0..1000).map(|_| PeerId::random()).collect();
    let alive: HashSet<PeerId> = peers.iter().skip(400).take(3).copied().collect();
    let mut c = of_a_large_mesh(&peers, now);
    let (mut found, mut t) = (HashSet::new(), now);
    while found.len() < 3 {
        if c.exchange(t) {
            tell(&mut c, &peers, t);
        }
        for dial in c.due(t) {
            if alive.contains(&dial.peer) {
                c.on_connected(dial.peer, t);
                found.insert(dial.peer);
            } else {
                c.on_failed(&dial.peer, t);
            }
        }
        assert!(c.candidates.len() <= MEMBERS_MAX, "{}", c.candidates.len());
        t += Duration::from_millis(250);
        assert!(
            t < now + Duration::from_secs(1200),
            "{} of 3 after twenty minutes",
            found.len()
        );
    }
}

//! Whatever is revoked, said and passed on, in whatever order: who has heard everything knows the same, and nobody revoked is a member.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;
use weft_protocol::PublicKey;

use super::{
    super::{Trust, directory::OwnRecord},
    admitted, founder, nothing, proves,
};
use crate::testing::TestPlatform;

/// The founder, two administrators it admitted, and three members, one of each of these.
const NODES: usize = 6;
const ADMINISTRATORS: usize = 3;

#[derive(Debug, Clone)]
enum Deed {
    /// One who may revokes another.
    Revoke { by: usize, whom: usize },
    /// Some of the notices that one knows come to another.
    Notices { from: usize, to: usize, which: u64 },
    /// A node says something new of itself.
    Announce { who: usize, what: u8 },
    /// Some of the records that one knows come to another.
    Records { from: usize, to: usize, which: u64 },
    /// Time passes.
    Pass { seconds: u8 },
}

fn deed() -> impl Strategy<Value = Deed> {
    let node = || 0..NODES;
    prop_oneof![
        2 => (0..ADMINISTRATORS, node()).prop_map(|(by, whom)| Deed::Revoke { by, whom }),
        4 => (node(), node(), any::<u64>()).prop_map(|(from, to, which)| Deed::Notices { from, to, which }),
        2 => (node(), any::<u8>()).prop_map(|(who, what)| Deed::Announce { who, what }),
        4 => (node(), node(), any::<u64>()).prop_map(|(from, to, which)| Deed::Records { from, to, which }),
        1 => any::<u8>().prop_map(|seconds| Deed::Pass { seconds }),
    ]
}

/// Those whose bit is set, the last first if the highest is.
fn some<T>(all: Vec<T>, which: u64) -> Vec<T> {
    let chosen = all.into_iter().enumerate().filter(|(n, _)| which >> (n % 63) & 1 == 1);
    let mut chosen: Vec<T> = chosen.map(|(_, one)| one).collect();
    if which >> 63 == 1 {
        chosen.reverse();
    }
    chosen
}

async fn nodes(platform: &TestPlatform) -> Vec<Trust> {
    let root = founder(platform).await;
    let mut nodes = vec![root];
    for seed in 2..=ADMINISTRATORS as u8 {
        let administrator = admitted(platform, &nodes[0], seed, &["admin"]).await;
        nodes.push(administrator);
    }
    for number in ADMINISTRATORS..NODES {
        let member = admitted(platform, &nodes[number - ADMINISTRATORS], number as u8 + 1, &[]).await;
        nodes.push(member);
    }
    nodes
}

async fn do_it(nodes: &[Trust], platform: &TestPlatform, deed: &Deed) {
    match *deed {
        // It may be refused: oneself, whom the root or this one revoked already, or by who is revoked.
        Deed::Revoke { by, whom } => drop(nodes[by].revoke(&nodes[whom].local_peer(), "test").await),
        Deed::Notices { from, to, which } => {
            let notices = some(nodes[from].revocation_notices(), which);
            nodes[to].learn_revocations(notices).await.unwrap();
        }
        Deed::Announce { who, what } => {
            let own = OwnRecord {
                name: format!("node-{what}"),
                ..OwnRecord::default()
            };
            nodes[who].publish_own(&own).unwrap();
        }
        Deed::Records { from, to, which } => {
            let (records, _) = nodes[from].lacking(nothing, usize::MAX);
            nodes[to].learn_records(some(records, which), Some(nodes[from].local_peer()));
        }
        Deed::Pass { seconds } => platform.clock.advance(Duration::from_secs(seconds.into())),
    }
}

/// Everybody tells everybody everything, until nobody learns anything.
async fn tell_all(nodes: &[Trust]) {
    loop {
        let mut learnt = 0;
        for from in nodes {
            for to in nodes {
                learnt += to.learn_revocations(from.revocation_notices()).await.unwrap();
                let (records, _) = from.lacking(nothing, usize::MAX);
                learnt += to.learn_records(records, Some(from.local_peer()));
            }
        }
        if learnt == 0 {
            return;
        }
    }
}

fn revoked(node: &Trust) -> BTreeSet<PublicKey> {
    node.revocations().iter().map(|revocation| revocation.subject).collect()
}

async fn check(deeds: &[Deed]) {
    let platform = TestPlatform::new();
    let nodes = nodes(&platform).await;
    let mut by_root = BTreeSet::new();
    for deed in deeds {
        do_it(&nodes, &platform, deed).await;
        if matches!(deed, Deed::Revoke { by: 0, .. }) {
            // Nobody can take back what the root key has said.
            by_root.extend(revoked(&nodes[0]).iter().filter(|key| {
                let Deed::Revoke { whom, .. } = deed else { return false };
                **key == nodes[*whom].public_key()
            }));
        }
    }
    tell_all(&nodes).await;
    let all = revoked(&nodes[0]);
    assert!(by_root.is_subset(&all), "{by_root:?} of {all:?}");
    for node in &nodes {
        assert_eq!(node.revocations_digest(), nodes[0].revocations_digest());
        assert_eq!(revoked(node), all);
        for other in nodes.iter().filter(|other| all.contains(&other.public_key())) {
            assert!(!node.is_member(&other.local_peer()), "a revoked one is a member");
            // What it says to itself does not matter.
            let is_itself = node.local_peer() == other.local_peer();
            let record = node.record(&other.local_peer());
            assert!(record.is_none() || is_itself, "a revoked one has a record");
            assert!(proves(node, other).is_err(), "a revoked one proves itself");
        }
    }
    // Those who are members themselves know the same of each other, once each has said anew what it is: who was for a while taken for one that a
    // revoked one had admitted was forgotten, by itself too.
    platform.clock.advance(Duration::from_secs(300));
    let left: Vec<&Trust> = nodes.iter().filter(|node| node.own_membership().is_some()).collect();
    for node in &left {
        let name = "again".to_owned();
        node.publish_own(&OwnRecord {
            name,
            ..OwnRecord::default()
        })
        .unwrap();
    }
    tell_all(&nodes).await;
    for node in &left {
        assert_eq!(
            node.records_digest(),
            left[0].records_digest(),
            "the directories differ"
        );
    }
}

/// Found by the property below: an administrator that was revoked, and has not heard of it, revokes the one who did it. Whoever hears of that first
/// drops those whom that one had admitted, and must have them again when it hears the rest.
#[tokio::test]
async fn a_revocation_that_turns_out_to_be_void_leaves_no_trace() {
    let records = Deed::Records {
        from: 5,
        to: 2,
        which: u64::MAX,
    };
    let deeds = [
        Deed::Revoke { by: 2, whom: 1 },
        Deed::Pass { seconds: 1 },
        Deed::Announce { who: 5, what: 0 },
        records,
        Deed::Revoke { by: 1, whom: 2 },
    ];
    check(&deeds).await;
}

/// Found by the property below: the root was told that its word was not needed, and the word that was there turned out void.
#[tokio::test]
async fn what_the_root_revokes_stays_revoked_whoever_said_it_before() {
    let notices = Deed::Notices {
        from: 1,
        to: 0,
        which: 1,
    };
    let deeds = [
        Deed::Revoke { by: 2, whom: 1 },
        Deed::Pass { seconds: 1 },
        Deed::Revoke { by: 1, whom: 3 },
        notices,
        Deed::Revoke { by: 0, whom: 3 },
    ];
    check(&deeds).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn who_has_heard_everything_knows_the_same_and_nobody_revoked_is_a_member(
        deeds in proptest::collection::vec(deed(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(&deeds));
    }
}

//! Streams that several real nodes keep.

use std::time::Duration;

use weft_protocol::patterns::event_sourcing::{
    Condition,
    consumer::{ConsumerOptions, ConsumerReply, ConsumerRequest, Handed, Order, Settlement},
};

use super::*;
use crate::{
    error::{ErrorKind, Kind as _},
    node::{Node, NodeOptions},
    patterns::event_sourcing::{EventSourcing, EventSourcingHandle, Read},
    testing::{PATIENCE, address, key, member, mesh_config, peers, start_as},
    trust::MeshKind,
};

/// Members of one mesh that can be stopped and started again.
pub(super) struct Mesh {
    pub(super) places: Vec<(Arc<TestPlatform>, Option<Node>)>,
    segment_bytes: u64,
}

impl Mesh {
    async fn of(count: usize) -> Mesh {
        Mesh::with_segments(count, crate::store::StoreOptions::default().segment_bytes).await
    }

    /// One whose nodes' logs have segments of so many bytes.
    pub(super) async fn with_segments(count: usize, segment_bytes: u64) -> Mesh {
        let mut mesh = Mesh {
            places: Vec::new(),
            segment_bytes,
        };
        for number in 0..count {
            mesh.places.push((TestPlatform::going_on(), None));
            mesh.start(number).await;
        }
        for (_, node) in &mesh.places {
            peers(node.as_ref().unwrap(), count - 1).await;
        }
        mesh
    }

    pub(super) async fn start(&mut self, number: usize) {
        let others = self
            .places
            .iter()
            .filter_map(|(_, node)| node.as_ref())
            .map(address)
            .collect::<Vec<_>>();
        let found = (number == 0 && others.is_empty()).then_some(MeshKind::Open);
        let is_first = self.places[number].1.is_none() && found.is_some();
        let config = mesh_config(&format!("node-{number}"), others, "tcp");
        let platform = Arc::clone(&self.places[number].0);
        let builder = Node::builder().pattern(EventSourcing);
        let seed = number as u8 + 1;
        let options = NodeOptions {
            store_segment_bytes: self.segment_bytes,
            ..NodeOptions::new(key(seed), "/store", config)
        };
        let node = start_as(platform, builder, seed, options, found.filter(|_| is_first)).await;
        member(&node).await;
        self.places[number].1 = Some(node);
    }

    pub(super) async fn stop(&mut self, number: usize) {
        self.places[number].1.take().unwrap().stop().await;
    }

    pub(super) fn at(&self, number: usize) -> EventSourcingHandle {
        self.places[number]
            .1
            .as_ref()
            .unwrap()
            .handle::<EventSourcing>()
            .unwrap()
    }

    pub(super) fn peer(&self, number: usize) -> weft_protocol::PeerId {
        self.places[number].1.as_ref().unwrap().mesh().local_peer()
    }

    pub(super) fn has_copy(&self, number: usize, name: &Subject) -> bool {
        self.at(number).streams.group_of(name).is_some()
    }

    /// Which node leads those that keep a stream, as one of them says.
    pub(super) async fn leader(&self, of: &EventSourcingHandle, name: &Subject) -> usize {
        for _ in 0..500 {
            let owner = of.info(name).await.unwrap().owner;
            let running = |number: &usize| self.places[*number].1.is_some();
            if let Some(leader) = (0..self.places.len())
                .filter(running)
                .find(|number| self.peer(*number) == owner)
            {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("nobody leads");
    }
}

pub(super) fn name(text: &str) -> Subject {
    text.parse().unwrap()
}

pub(super) fn three() -> StreamOptions {
    StreamOptions {
        replicas: Some(3),
        ..StreamOptions::default()
    }
}

pub(super) fn event_with_id(id: u64) -> Event {
    Event {
        id: Some(id.to_string()),
        ..event("k", &["n=1"], id.to_string())
    }
}

pub(super) async fn ids(of: &EventSourcingHandle, name: &Subject) -> Vec<String> {
    let request = ReadRequest::from(From::Position(1));
    let (mut reading, mut ids) = (of.read(name, request).await.unwrap(), Vec::new());
    while let Some(read) = reading.next().await.unwrap() {
        if let Read::Records(records) = read {
            ids.extend(records.into_iter().map(|one| one.record.event.id.unwrap_or_default()));
        }
    }
    ids
}

pub(super) fn numbered(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn a_stream_with_copies_is_used_from_every_node() {
    let mesh = Mesh::of(4).await;
    let orders = name("orders");
    let made = mesh.at(0).create(&orders, three()).await.unwrap();
    let copies = made.figures.unwrap().copies.unwrap();
    assert_eq!(copies.members.len(), 3);
    let taken = mesh.at(3).create(&orders, StreamOptions::default()).await.unwrap_err();
    assert!(matches!(taken, StreamError::Exists { .. }), "{taken}");
    for id in 0..20 {
        let at = mesh.at(id as usize % 4);
        let appended = at.append(&orders, append_of(vec![event_with_id(id)])).await.unwrap();
        assert_eq!(appended.last, id + 1);
        // Who asks any node afterwards finds it.
        assert_eq!(ids(&mesh.at((id as usize + 1) % 4), &orders).await, numbered(0..id + 1));
    }
    // The same again is recorded once, another with its id is refused, and so is what was expected to be otherwise.
    let again = mesh
        .at(3)
        .append(&orders, append_of(vec![event_with_id(7)]))
        .await
        .unwrap();
    assert_eq!((again.last, again.is_duplicate), (8, true));
    let expecting = Append {
        expect: Some(19),
        ..append_of(vec![event("k", &[], "x")])
    };
    let refused = mesh.at(3).append(&orders, expecting).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    let condition = Condition {
        query: query(&[(&["k"], &["n=1"])]),
        after: 19,
    };
    let conditional = Append {
        condition: Some(condition),
        ..append_of(vec![event("k", &[], "x")])
    };
    let refused = mesh.at(1).append(&orders, conditional).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    for number in 0..4 {
        let verified = mesh.at(number).verify(&orders).await.unwrap();
        assert_eq!(verified.records, 20);
        let proof = mesh.at(number).prove(&orders, 7).await.unwrap();
        assert_eq!(proof.verify().unwrap().position, 7);
    }
    let listed = async {
        while mesh.at(3).list().await.len() != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, listed).await.unwrap();
    // How much is kept is agreed upon, too; how many copies there are stays.
    let keeper = (0..4).find(|number| mesh.has_copy(*number, &orders)).unwrap();
    let fewer = StreamOptions {
        retain_records: Some(10),
        ..StreamOptions::default()
    };
    let updated = mesh.at(keeper).update(&orders, fewer).await.unwrap();
    assert_eq!(updated.figures.unwrap().retain_records, Some(10));
    let five = StreamOptions {
        replicas: Some(5),
        ..StreamOptions::default()
    };
    let refused = mesh.at(keeper).update(&orders, five).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    // A second stream costs no second group.
    let bills = mesh.at(0).create(&name("bills"), three()).await.unwrap();
    assert_eq!(bills.figures.unwrap().copies.unwrap().group, copies.group);
    mesh.at(0).delete(&orders).await.unwrap();
    let gone = mesh
        .at(3)
        .append(&orders, append_of(vec![event("k", &[], "x")]))
        .await
        .unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
}

#[tokio::test]
async fn a_stream_goes_on_without_its_leader_and_takes_it_back() {
    let mut mesh = Mesh::of(4).await;
    let orders = name("orders");
    mesh.at(0).create(&orders, three()).await.unwrap();
    let copies = mesh.at(0).info(&orders).await.unwrap().figures.unwrap().copies.unwrap();
    let keys: Vec<_> = copies.members.iter().map(|member| member.key.0).collect();
    let keeps = |mesh: &Mesh, number: usize| {
        keys.contains(mesh.places[number].1.as_ref().unwrap().trust().public_key().as_bytes())
    };
    let outsider = (0..4).find(|number| !keeps(&mesh, *number)).unwrap();
    let mut next = 0;
    for _ in 0..3 {
        for _ in 0..5 {
            let appended = mesh
                .at(outsider)
                .append(&orders, append_of(vec![event_with_id(next)]))
                .await
                .unwrap();
            next += 1;
            assert_eq!(appended.last, next);
        }
        let leader = mesh.leader(&mesh.at(outsider), &orders).await;
        mesh.stop(leader).await;
        // It is the next leader who is asked, and nothing is lost or done twice.
        for _ in 0..5 {
            let appended = mesh
                .at(outsider)
                .append(&orders, append_of(vec![event_with_id(next)]))
                .await
                .unwrap();
            next += 1;
            assert_eq!(appended.last, next);
        }
        mesh.start(leader).await;
        assert_eq!(ids(&mesh.at(leader), &orders).await, numbered(0..next));
        assert_eq!(mesh.at(leader).verify(&orders).await.unwrap().records, next);
    }
}

#[tokio::test]
async fn most_of_the_copies_are_needed() {
    let mut mesh = Mesh::of(3).await;
    let orders = name("orders");
    let few = mesh
        .at(0)
        .create(
            &orders,
            StreamOptions {
                replicas: Some(5),
                ..three()
            },
        )
        .await
        .unwrap_err();
    assert!(matches!(few, StreamError::TooFew(_)), "{few}");
    mesh.at(0).create(&orders, three()).await.unwrap();
    mesh.at(0)
        .append(&orders, append_of(vec![event_with_id(0)]))
        .await
        .unwrap();
    mesh.stop(1).await;
    mesh.stop(2).await;
    let refused = mesh
        .at(0)
        .append(&orders, append_of(vec![event_with_id(1)]))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unreachable, "{refused}");
    mesh.start(1).await;
    // Whether it was recorded then or is now: once.
    let appended = mesh
        .at(1)
        .append(&orders, append_of(vec![event_with_id(1)]))
        .await
        .unwrap();
    assert_eq!(appended.last, 2);
    assert_eq!(ids(&mesh.at(0), &orders).await, numbered(0..2));
    // All of them away, and back.
    mesh.stop(0).await;
    mesh.stop(1).await;
    for number in [2, 0, 1] {
        mesh.start(number).await;
    }
    let appended = mesh
        .at(2)
        .append(&orders, append_of(vec![event_with_id(2)]))
        .await
        .unwrap();
    assert_eq!(appended.last, 3);
    for number in 0..3 {
        assert_eq!(ids(&mesh.at(number), &orders).await, numbered(0..3));
        assert_eq!(mesh.at(number).verify(&orders).await.unwrap().records, 3);
    }
}

async fn take(of: &EventSourcingHandle, jobs: &Subject, count: u32) -> Vec<Handed> {
    let next = ConsumerRequest::Next {
        name: "workers".into(),
        count,
        wait_ms: 10_000,
    };
    let ConsumerReply::Handed(handed) = of.consumer(jobs, next).await.unwrap() else {
        panic!()
    };
    let handed = handed.iter().map(|one| Handed {
        position: one.record.position,
        delivery: one.delivery,
    });
    handed.collect()
}

async fn settle(of: &EventSourcingHandle, jobs: &Subject, handed: Vec<Handed>, settlement: Settlement) {
    let settle = ConsumerRequest::Settle {
        name: "workers".into(),
        handed,
        settlement,
    };
    of.consumer(jobs, settle).await.unwrap();
}

#[tokio::test]
async fn a_consumer_goes_on_under_the_next_leader() {
    let mut mesh = Mesh::of(3).await;
    let jobs = name("jobs");
    mesh.at(0).create(&jobs, three()).await.unwrap();
    let options = ConsumerOptions {
        from: From::Position(1),
        query: Query::default(),
        ack_wait_ms: 30_000,
        deliver_max: None,
        backoff_ms: Vec::new(),
        pending_max: 64,
        order: Order::Any,
        is_acked: true,
        idle_ms: None,
        is_upcast: None,
    };
    let add = ConsumerRequest::Add {
        name: "workers".into(),
        options,
    };
    mesh.at(1).consumer(&jobs, add).await.unwrap();
    for id in 0..6 {
        mesh.at(0)
            .append(&jobs, append_of(vec![event_with_id(id)]))
            .await
            .unwrap();
    }
    let first = take(&mesh.at(1), &jobs, 3).await;
    assert_eq!(first.iter().map(|one| one.position).collect::<Vec<_>>(), [1, 2, 3]);
    settle(&mesh.at(2), &jobs, first[..2].to_vec(), Settlement::Done).await;
    let failed = Settlement::Dead { reason: "no".into() };
    settle(&mesh.at(2), &jobs, first[2..].to_vec(), failed).await;
    let leader = mesh.leader(&mesh.at(0), &jobs).await;
    mesh.stop(leader).await;
    let other = (leader + 1) % 3;
    // What was settled stays so, what was not comes, and the dead letter is where it was.
    let rest = take(&mesh.at(other), &jobs, 10).await;
    assert_eq!(rest.iter().map(|one| one.position).collect::<Vec<_>>(), [4, 5, 6]);
    let dead = ConsumerRequest::DeadLetters {
        name: "workers".into(),
        after: 0,
        count: 10,
    };
    let ConsumerReply::Dead(dead) = mesh.at(other).consumer(&jobs, dead).await.unwrap() else {
        panic!()
    };
    assert_eq!(dead.iter().map(|letter| letter.position).collect::<Vec<_>>(), [3]);
}

#[tokio::test]
async fn a_stranger_to_a_group_is_not_heard() {
    use weft_protocol::consensus::{
        Ballot, Candidacy, EntryId, GroupReply, GroupRequest, Mark, Members, Reign, VoterKey, Voters,
    };
    let mesh = Mesh::of(4).await;
    let orders = name("orders");
    let made = mesh.at(0).create(&orders, three()).await.unwrap();
    let copies = made.figures.unwrap().copies.unwrap();
    let key = |number: usize| *mesh.places[number].1.as_ref().unwrap().trust().public_key().as_bytes();
    let is_in = |number: &usize| copies.members.iter().any(|member| member.key.0 == key(*number));
    let (inside, outside) = (
        (0..4).find(is_in).unwrap(),
        (0..4).find(|number| !is_in(number)).unwrap(),
    );
    let ballot = Ballot {
        reign: Reign {
            term: 1 << 40,
            leader: key(outside),
        },
        is_elected: true,
    };
    let append = GroupRequest::Append {
        ballot,
        before: None,
        entries: Vec::new(),
        committed: None,
    };
    let candidacy = Candidacy {
        ballot,
        last: None,
        is_transfer: true,
    };
    let mark = Mark {
        last: EntryId {
            reign: ballot.reign,
            index: 1 << 40,
        },
        members_at: None,
        members: Members {
            voters: Vec::new(),
            all: Voters(Vec::new()),
        },
    };
    let founders = Voters([key(0), key(1), key(2)].map(VoterKey).to_vec());
    let without_itself = GroupRequest::Join(founders.clone());
    let stranger = mesh.places[outside].1.as_ref().unwrap().mesh().clone();
    let ask = async |request: GroupRequest| {
        let within = Duration::from_secs(10);
        crate::patterns::event_sourcing::copies::ask(&stranger, mesh.peer(inside), copies.group, request, within).await
    };
    for request in [
        append,
        GroupRequest::Vote(candidacy),
        GroupRequest::Propose(vec![1]),
        GroupRequest::Snapshot { ballot, mark },
        // Which streams there are.
        GroupRequest::Fetch(vec![0x82, 0, 0x80]),
        GroupRequest::Leave,
        GroupRequest::Replace {
            member: VoterKey(key(inside)),
            by: Some(VoterKey(key(outside))),
        },
        without_itself,
    ] {
        let heard = ask(request.clone()).await;
        assert!(
            matches!(heard, Err(_) | Ok(GroupReply::Refused(_) | GroupReply::Removed)),
            "{request:?}: {heard:?}"
        );
    }
    // And a member of the group cannot have it agree on what it would not understand.
    let member = mesh.places[(0..4).rfind(is_in).unwrap()]
        .1
        .as_ref()
        .unwrap()
        .mesh()
        .clone();
    let leader = mesh.peer(mesh.leader(&mesh.at(0), &orders).await);
    let nonsense = GroupRequest::Propose(b"nonsense".to_vec());
    let within = Duration::from_secs(10);
    let heard = crate::patterns::event_sourcing::copies::ask(&member, leader, copies.group, nonsense, within).await;
    assert!(heard.is_err(), "{heard:?}");
    let appended = mesh
        .at(outside)
        .append(&orders, append_of(vec![event_with_id(0)]))
        .await
        .unwrap();
    assert_eq!(appended.last, 1);
}

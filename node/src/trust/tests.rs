mod convergence;

use std::time::Duration;

use weft_protocol::{Audience, Subject, Verb, Verbs, admission::AdmissionRefusal};

use super::{guard::GrantRequest, *};
use crate::{
    error::ErrorKind,
    platform::Clock as _,
    testing::{TestPlatform, key, trust, trust_parts},
};

const DAY: Duration = Duration::from_secs(86_400);

pub(super) async fn founder(platform: &TestPlatform) -> Trust {
    let founder = trust(1, platform).await;
    founder
        .found(
            &key(0x81),
            FoundOptions {
                kind: MeshKind::Private,
                name: "founder".into(),
            },
        )
        .await
        .unwrap();
    founder
}

/// A member that `issuer` admits with these roles.
pub(super) async fn admitted(platform: &TestPlatform, issuer: &Trust, seed: u8, roles: &[&str]) -> Trust {
    let member = trust(seed, platform).await;
    let options = IssueOptions {
        roles: roles.iter().map(|r| (*r).to_owned()).collect(),
        ..IssueOptions::default()
    };
    let chain = issuer.issue(member.public_key(), "m", &options).unwrap();
    member.enter(issuer.mesh().unwrap(), chain).await.unwrap();
    member
}

pub(super) fn proves(judge: &Trust, who: &Trust) -> Result<(), AdmissionRefusal> {
    let mesh = who.mesh().unwrap().id;
    match judge.verify_proof(&who.local_peer(), &mesh, &who.chain(), "m") {
        ProofVerdict::Member => Ok(()),
        ProofVerdict::Adopted(_) => Err(AdmissionRefusal::Revoked),
        ProofVerdict::Refused(reason, _) => Err(reason),
    }
}

/// What a node has that knows nobody.
pub(super) fn nothing(_: &weft_protocol::PublicKey, _: u64) -> bool {
    false
}

pub(super) fn subject(text: &str) -> Subject {
    Subject::reserved(text).unwrap()
}

#[tokio::test]
async fn a_member_proves_itself_and_a_stranger_does_not() {
    let platform = TestPlatform::new();
    let a = founder(&platform).await;
    let b = admitted(&platform, &a, 2, &[]).await;
    assert_eq!(proves(&a, &b), Ok(()));
    assert_eq!(proves(&b, &a), Ok(()));
    // Somebody else's certificate is of no use.
    let thief = key(9).public().peer_id();
    let stolen = a.verify_proof(&thief, &b.mesh().unwrap().id, &b.chain(), "m");
    assert!(matches!(stolen, ProofVerdict::Refused(AdmissionRefusal::NotMember, _)));
    assert!(!a.is_member(&thief));
    // Another mesh's neither.
    let other = trust(7, &platform).await;
    other
        .found(
            &key(0x87),
            FoundOptions {
                kind: MeshKind::Private,
                name: "o".into(),
            },
        )
        .await
        .unwrap();
    assert_eq!(proves(&a, &other), Err(AdmissionRefusal::WrongMesh));
    let posing = a.verify_proof(&other.local_peer(), &a.mesh().unwrap().id, &other.chain(), "o");
    assert!(matches!(posing, ProofVerdict::Refused(..)));
}

#[tokio::test]
async fn a_certificate_lives_as_long_as_its_issuer_was_told() {
    let platform = TestPlatform::new();
    let parts = TrustParts {
        certificate_ttl: DAY * 2,
        ..trust_parts(1, &platform).await
    };
    let founder = Trust::open(parts).await.unwrap();
    founder
        .found(
            &key(0x81),
            FoundOptions {
                kind: MeshKind::Private,
                name: "founder".into(),
            },
        )
        .await
        .unwrap();
    let life = |options: &IssueOptions| {
        let chain = founder.issue(key(2).public(), "m", options).unwrap();
        chain.peek_leaf().unwrap().not_after_ms - founder.now_ms()
    };
    assert_eq!(life(&IssueOptions::default()), (DAY * 2).as_millis() as u64);
    assert_eq!(
        life(&IssueOptions {
            ttl_ms: Some(1000),
            ..IssueOptions::default()
        }),
        1000
    );
    let forever = IssueOptions {
        ttl_ms: Some(u64::MAX),
        ..IssueOptions::default()
    };
    assert_eq!(
        life(&forever),
        (DAY * 365).as_millis() as u64,
        "not beyond the issuer's own"
    );
}

#[tokio::test]
async fn a_certificate_runs_out_and_can_be_renewed() {
    let platform = TestPlatform::new();
    let a = founder(&platform).await;
    let b = admitted(&platform, &a, 2, &[]).await;
    assert!(b.renew_at_ms().unwrap() > b.now_ms());
    platform.clock.advance(61 * DAY);
    assert!(b.renew_at_ms().unwrap() <= b.now_ms());
    let fresh = a.renew(&b.local_peer(), &b.chain()).unwrap();
    b.enter(b.mesh().unwrap(), fresh).await.unwrap();
    assert!(b.renew_at_ms().unwrap() > b.now_ms());
    platform.clock.advance(91 * DAY);
    assert_eq!(proves(&a, &b), Err(AdmissionRefusal::Expired));
    assert!(!a.is_member(&b.local_peer()));
    assert_eq!(
        a.renew(&b.local_peer(), &b.chain()).unwrap_err().kind(),
        ErrorKind::Denied
    );
}

#[tokio::test]
async fn a_revoked_key_stays_out_through_every_door_and_after_a_restart() {
    let platform = TestPlatform::new();
    let a = founder(&platform).await;
    let b = admitted(&platform, &a, 2, &[]).await;
    let c = admitted(&platform, &a, 3, &[]).await;
    assert_eq!(proves(&a, &b), Ok(()));
    a.revoke(&b.local_peer(), "test").await.unwrap();
    assert_eq!(proves(&a, &b), Err(AdmissionRefusal::Revoked));
    assert!(!a.is_member(&b.local_peer()));
    assert_eq!(
        a.revoke(&b.local_peer(), "again").await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
    // Not by a new certificate, not by a ticket, not at another member.
    assert!(a.issue(b.public_key(), "b", &IssueOptions::default()).is_err());
    let options = InviteOptions {
        ttl_ms: 1000,
        uses: 1,
        role: String::new(),
        labels: Vec::new(),
    };
    let (ticket, _) = a.invite(&options, Vec::new()).await.unwrap();
    assert_eq!(
        a.redeem(b.public_key(), &redemption(&ticket, &b.public_key()))
            .await
            .unwrap_err()
            .0,
        AdmissionRefusal::Revoked
    );
    assert_eq!(proves(&c, &b), Ok(()), "c has not heard of it");
    assert_eq!(c.learn_revocations(a.revocation_notices()).await.unwrap(), 1);
    assert_eq!(proves(&c, &b), Err(AdmissionRefusal::Revoked));
    assert_eq!(a.revocations_digest(), c.revocations_digest());
    drop(c);
    let c = trust(3, &platform).await;
    assert_eq!(proves(&c, &b), Err(AdmissionRefusal::Revoked), "after a restart");
    // A plain member may not revoke, and nobody itself.
    assert_eq!(
        c.revoke(&a.local_peer(), "coup").await.unwrap_err().kind(),
        ErrorKind::Denied
    );
    assert_eq!(
        a.revoke(&a.local_peer(), "?").await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
}

#[tokio::test]
async fn members_admitted_by_a_revoked_one_are_taken_over() {
    let platform = TestPlatform::new();
    let a = founder(&platform).await;
    let b = admitted(&platform, &a, 2, &["admin"]).await;
    let c = admitted(&platform, &b, 3, &[]).await;
    for member in [&b, &c] {
        assert_eq!(proves(&a, member), Ok(()));
    }
    let revoked = a.revoke(&b.local_peer(), "gone").await.unwrap();
    assert_eq!(revoked.adopted, [c.local_peer()]);
    let mesh = c.mesh().unwrap().id;
    let ProofVerdict::Adopted(chain) = a.verify_proof(&c.local_peer(), &mesh, &c.chain(), "c") else {
        panic!("c should get a new certificate");
    };
    c.enter(c.mesh().unwrap(), chain).await.unwrap();
    assert_eq!(proves(&a, &c), Ok(()));
}

fn redemption(ticket: &weft_protocol::Ticket, joiner: &weft_protocol::PublicKey) -> weft_protocol::Redemption {
    weft_protocol::Redemption::new(ticket, joiner, "w", "weft/1", [1; 16])
}

#[tokio::test]
async fn a_ticket_is_used_as_often_as_it_says() {
    let platform = TestPlatform::new();
    let a = founder(&platform).await;
    let options = InviteOptions {
        ttl_ms: 60_000,
        uses: 1,
        role: "worker".into(),
        labels: vec![("zone".into(), "eu".into())],
    };
    let (ticket, _) = a.invite(&options, Vec::new()).await.unwrap();
    let first = key(2).public();
    let chain = a.redeem(first, &redemption(&ticket, &first)).await.unwrap();
    assert_eq!(chain.peek_leaf().unwrap().roles, ["worker"]);
    // The answer may have been lost: the same node may ask again, another may not.
    assert!(a.redeem(first, &redemption(&ticket, &first)).await.is_ok());
    let second = key(3).public();
    assert_eq!(
        a.redeem(second, &redemption(&ticket, &second)).await.unwrap_err().0,
        AdmissionRefusal::UsedTicket
    );
    let mut wrong = ticket.clone();
    wrong.secret = weft_protocol::TicketSecret::from_bytes([7; 16]);
    // A secret nobody drew; one member's redemption used by another; a redemption with its invitation guessed.
    let mut guessed = redemption(&wrong, &second);
    guessed.invitation = ticket.secret.key().invitation();
    for forged in [redemption(&wrong, &second), redemption(&ticket, &first), guessed] {
        assert_eq!(
            a.redeem(second, &forged).await.unwrap_err().0,
            AdmissionRefusal::BadTicket
        );
    }
    let (late, _) = a.invite(&options, Vec::new()).await.unwrap();
    platform.clock.advance(Duration::from_secs(61));
    assert_eq!(
        a.redeem(second, &redemption(&late, &second)).await.unwrap_err().0,
        AdmissionRefusal::Expired
    );
    assert!(a.invitations().await.unwrap().is_empty());
    for uses in [0, 10_001] {
        let bad = InviteOptions {
            uses,
            ..options.clone()
        };
        assert_eq!(a.invite(&bad, Vec::new()).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    let b = admitted(&platform, &a, 4, &[]).await;
    assert_eq!(
        b.invite(&options, Vec::new()).await.unwrap_err().kind(),
        ErrorKind::Denied
    );
}

#[tokio::test]
async fn deny_is_the_default_between_roles_until_something_is_granted() {
    let platform = TestPlatform::new();
    let a = founder(&platform).await;
    let sensor = admitted(&platform, &a, 2, &["sensor"]).await;
    let backend = admitted(&platform, &a, 3, &["backend"]).await;
    let orders = subject("orders.eu");
    for (judge, who) in [(&sensor, &backend), (&backend, &sensor)] {
        assert_eq!(proves(judge, who), Ok(()));
        let decision = judge.check(&who.local_peer(), Verb::Call, &orders, &[]);
        assert!(!decision.allowed && decision.rule == Rule::None, "{decision:?}");
        assert!(!decision.because.is_empty());
    }
    assert_eq!(
        backend.check(&backend.local_peer(), Verb::Admin, &orders, &[]).rule,
        Rule::Itself
    );
    let request = GrantRequest {
        resource: "orders.>".parse().unwrap(),
        depth: 0,
        ttl_ms: 60_000,
    };
    let audience = Audience::Key(sensor.public_key());
    let held = a
        .grant(audience, Verbs::one(Verb::Call), request.clone())
        .await
        .unwrap();
    let decision = backend.check(
        &sensor.local_peer(),
        Verb::Call,
        &orders,
        std::slice::from_ref(&held.token),
    );
    assert!(decision.allowed && decision.rule == Rule::Capability, "{decision:?}");
    for (verb, what) in [
        (Verb::Publish, "orders.eu"),
        (Verb::Call, "invoices.eu"),
        (Verb::Admin, "mesh.revocation"),
    ] {
        assert!(
            !backend
                .check(
                    &sensor.local_peer(),
                    verb,
                    &subject(what),
                    std::slice::from_ref(&held.token)
                )
                .allowed
        );
    }
    // Not transferable, not for longer than it says, not to be given by who has no right to.
    let other = admitted(&platform, &a, 4, &["other"]).await;
    assert_eq!(proves(&backend, &other), Ok(()));
    assert!(
        !backend
            .check(
                &other.local_peer(),
                Verb::Call,
                &orders,
                std::slice::from_ref(&held.token)
            )
            .allowed
    );
    assert!(
        sensor
            .grant(Audience::Role("other".into()), Verbs::one(Verb::Call), request)
            .await
            .is_err()
    );
    sensor.keep(held.token.clone()).await.unwrap();
    assert_eq!(sensor.to_present(Verb::Call, &orders).len(), 1);
    assert_eq!(sensor.to_present(Verb::Publish, &orders).len(), 0);
    platform
        .clock
        .advance(Duration::from_secs(60) + Duration::from_millis(weft_protocol::limits::CLOCK_SKEW_MS_MAX + 1));
    assert!(
        !backend
            .check(&sensor.local_peer(), Verb::Call, &orders, &[held.token])
            .allowed
    );
}

#[tokio::test]
async fn members_of_one_role_are_free_with_each_other_but_not_to_administer() {
    let platform = TestPlatform::new();
    let a = founder(&platform).await;
    let b = admitted(&platform, &a, 2, &[]).await;
    let c = admitted(&platform, &a, 3, &[]).await;
    assert_eq!(proves(&b, &c), Ok(()));
    for verb in guard::ROLE_VERBS {
        assert_eq!(b.check(&c.local_peer(), verb, &subject("x"), &[]).rule, Rule::SameRole);
    }
    for verb in [Verb::Invite, Verb::Grant, Verb::Admin] {
        assert!(!b.check(&c.local_peer(), verb, &subject("x"), &[]).allowed);
    }
    let stranger = key(9).public().peer_id();
    assert_eq!(
        b.check(&stranger, Verb::Call, &subject("x"), &[]).rule,
        Rule::NotAMember
    );
}

#[tokio::test]
async fn records_spread_only_with_their_own_nodes_signature_and_the_newest_wins() {
    let platform = TestPlatform::new();
    let a = founder(&platform).await;
    let b = admitted(&platform, &a, 2, &[]).await;
    let own = directory::OwnRecord {
        name: "b".into(),
        agent: "weft/test".into(),
        ..Default::default()
    };
    assert!(b.publish_own(&own).unwrap());
    assert!(!b.publish_own(&own).unwrap(), "nothing has changed");
    let (first, _) = b.records_after(0, &a.local_peer(), usize::MAX);
    assert_eq!(a.learn_records(first.clone(), None), 1);
    assert_eq!(a.learn_records(first.clone(), None), 0);
    assert!(a.is_member(&b.local_peer()));
    let renamed = directory::OwnRecord {
        name: "b2".into(),
        ..own
    };
    assert!(b.publish_own(&renamed).unwrap());
    let (second, _) = b.records_after(0, &a.local_peer(), usize::MAX);
    assert_eq!(a.learn_records(second, None), 1);
    assert_eq!(a.learn_records(first, None), 0, "an old record does not come back");
    assert_eq!(a.record(&b.local_peer()).unwrap().name, "b2");
    a.publish_own(&directory::OwnRecord {
        name: "a".into(),
        ..Default::default()
    })
    .unwrap();
    let (of_a, more) = a.lacking(|key, seq| b.have().covers(key, seq), usize::MAX);
    assert!(!more);
    assert_eq!(b.learn_records(of_a, None), 1);
    assert_eq!(a.records_digest(), b.records_digest());
    a.persist_records().await.unwrap();
    drop(a);
    let a = trust(1, &platform).await;
    assert_eq!(a.record(&b.local_peer()).unwrap().name, "b2", "after a restart");
    platform.clock.advance(DAY);
    a.expire_records();
    assert!(a.record(&b.local_peer()).is_none());
}

#[tokio::test]
async fn in_an_open_mesh_everyone_is_a_member_but_the_revoked() {
    let platform = TestPlatform::new();
    let a = trust(1, &platform).await;
    let mesh = a
        .found(
            &key(0x81),
            FoundOptions {
                kind: MeshKind::Open,
                name: "a".into(),
            },
        )
        .await
        .unwrap();
    let peer = key(2).public().peer_id();
    let none = Chain::default();
    assert!(matches!(
        a.verify_proof(&peer, &mesh.id, &none, "guest"),
        ProofVerdict::Member
    ));
    a.revoke(&peer, "rude").await.unwrap();
    let refused = a.verify_proof(&peer, &mesh.id, &none, "guest");
    assert!(matches!(refused, ProofVerdict::Refused(AdmissionRefusal::Revoked, _)));
}

#[tokio::test]
async fn a_full_directory_keeps_the_neighbours_and_an_open_mesh_its_members() {
    let platform = TestPlatform::new();
    let parts = TrustParts {
        directory_max: 3,
        ..trust_parts(1, &platform).await
    };
    let a = Trust::open(parts).await.unwrap();
    let open = FoundOptions {
        kind: MeshKind::Open,
        name: "a".into(),
    };
    let mesh = a.found(&key(0x81), open).await.unwrap();
    let own = |name: &str| crate::trust::directory::OwnRecord {
        name: name.into(),
        ..Default::default()
    };
    a.publish_own(&own("a")).unwrap();
    let mut others = Vec::new();
    for seed in 2..6 {
        let other = trust(seed, &platform).await;
        other
            .enter(mesh.clone(), weft_protocol::Chain::default())
            .await
            .unwrap();
        other.publish_own(&own("o")).unwrap();
        others.push(other);
    }
    let record = |of: &Trust| of.lacking(nothing, usize::MAX).0;
    let far = Some(others[3].local_peer());
    for other in &others[..3] {
        a.learn_records(record(other), far);
    }
    assert!(a.is_directory_full());
    assert_eq!(a.known_count(), 3);
    let last = &others[2];
    assert!(a.record(&last.local_peer()).is_none(), "there was no room");
    assert!(a.is_member(&last.local_peer()), "it belongs all the same");
    // A neighbour brings its own record: somebody far away makes room.
    assert_eq!(a.learn_records(record(last), Some(last.local_peer())), 1);
    assert!(a.record(&last.local_peer()).is_some());
    assert_eq!(a.known_count(), 3);
    assert!(a.record(&a.local_peer()).is_some());
    // A revoked key is out, whether it is in the directory or not.
    a.revoke(&others[3].local_peer(), "test").await.unwrap();
    assert!(!a.is_member(&others[3].local_peer()));
}

#[tokio::test]
async fn enough_members_are_written_down_to_find_the_mesh_again() {
    let platform = TestPlatform::new();
    let a = trust(1, &platform).await;
    let open = FoundOptions {
        kind: MeshKind::Open,
        name: "a".into(),
    };
    let mesh = a.found(&key(0x81), open).await.unwrap();
    let own = crate::trust::directory::OwnRecord {
        name: "a".into(),
        ..Default::default()
    };
    a.publish_own(&own).unwrap();
    let record = |seed: u8, ttl: Duration| {
        let record = weft_protocol::NodeRecord {
            mesh: mesh.id,
            chain: weft_protocol::Chain::default(),
            name: format!("m{seed}"),
            addresses: Vec::new(),
            agent: String::new(),
            version: String::new(),
            seq: 1,
            issued_at_ms: platform.clock.now_unix_ms(),
            ttl_ms: ttl.as_millis() as u64,
            announcements: Vec::new(),
        };
        weft_protocol::Signed::sign(&record, &key(seed)).unwrap()
    };
    let peer = |seed: u8| key(seed).public().peer_id();
    let far = Some(peer(250));
    let short = DAY / 24;
    let (strangers, neighbours) = (2..152_u8, 152..162_u8);
    for seed in strangers.clone() {
        let ttl = if seed % 2 == 0 { short } else { DAY };
        assert_eq!(a.learn_records(vec![record(seed, ttl)], far), 1);
    }
    a.persist_records().await.unwrap();
    // Those come when there is no room for strangers any more.
    for seed in neighbours.clone() {
        assert_eq!(a.learn_records(vec![record(seed, DAY)], Some(peer(seed))), 1);
    }
    a.persist_records().await.unwrap();
    assert_eq!(a.known_count(), 161);
    drop(a);
    let a = trust(1, &platform).await;
    assert_eq!(a.known_count(), 64 + 10, "this node is one of the first");
    assert!(a.record(&a.local_peer()).is_some());
    assert!(neighbours.clone().all(|seed| a.record(&peer(seed)).is_some()));
    let short_lived = |a: &Trust| {
        strangers
            .clone()
            .filter(|seed| seed % 2 == 0 && a.record(&peer(*seed)).is_some())
            .count()
    };
    let gone = short_lived(&a);
    assert!((10..54).contains(&gone), "{gone}");
    // Whoever has run out makes room, in the store as well.
    platform.clock.advance(short * 2);
    a.expire_records();
    assert_eq!(a.known_count(), 64 + 10 - gone);
    let first = strangers
        .clone()
        .find(|seed| seed % 2 == 1 && a.record(&peer(*seed)).is_none())
        .unwrap();
    a.learn_records(vec![record(first, DAY)], far);
    a.persist_records().await.unwrap();
    drop(a);
    let a = trust(1, &platform).await;
    assert!(a.record(&peer(first)).is_some());
    assert_eq!((a.known_count(), short_lived(&a)), (64 + 10 - gone + 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_turn_is_waited_for_while_others_bring_something_and_no_longer() {
    const PATIENCE: Duration = Duration::from_secs(5);
    let trust = trust(1, &TestPlatform::new()).await;
    let _held = [trust.turn_to_pull(PATIENCE).await, trust.turn_to_pull(PATIENCE).await];
    let begun = tokio::time::Instant::now();
    // Those whose turn it is bring nothing.
    assert!(trust.turn_to_pull(PATIENCE).await.is_none());
    assert_eq!(begun.elapsed(), PATIENCE);
    // They bring something for half a minute.
    let bringing = async {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(3)).await;
            trust.note_page_pulled();
        }
    };
    let waiting = async {
        let turn = trust.turn_to_pull(PATIENCE).await;
        (turn.is_some(), tokio::time::Instant::now())
    };
    let ((), (has_turn, ended)) = tokio::join!(bringing, waiting);
    assert!(!has_turn);
    assert!(ended - begun >= PATIENCE + Duration::from_secs(30));
}

#[tokio::test]
async fn a_turn_that_is_over_is_the_next_ones() {
    let trust = trust(1, &TestPlatform::new()).await;
    let patience = Duration::from_secs(60);
    let first = trust.turn_to_pull(patience).await;
    let second = trust.turn_to_pull(patience).await;
    let mut third = Box::pin(trust.turn_to_pull(patience));
    assert!(futures::FutureExt::now_or_never(&mut third).is_none());
    drop(first);
    assert!(third.await.is_some());
    drop(second);
}

use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::testing::*;

const ADMIN: &str = "admin:mesh.>:3";

/// Admins at rank 2 and 3 below the founder (rank 1): numbers 3 and 4 beside each other, 5 below 3.
fn chain_of(admin: u8) -> Chain {
    match admin {
        ROOT => Chain::default(),
        FOUNDER => founder(),
        5 => {
            let request = request(5, &["admin"], &["admin:mesh.>:1"]);
            chain_of(3).issue(&secret(3), request, [5; 16], NOW_MS).unwrap()
        }
        _ => member(admin, &["admin"], &[ADMIN, "invite:role.>:3"]),
    }
}

fn statement(subject: u8, at_ms: u64) -> Revocation {
    Revocation {
        mesh: mesh(),
        subject: public(subject),
        reason: String::from("lost"),
        revoked_at_ms: NOW_MS + at_ms,
        nonce: [subject; 16],
    }
}

/// `by` revokes `subject`, `at_ms` after the start.
fn by(by: u8, subject: u8, at_ms: u64) -> RevocationNotice {
    RevocationNotice {
        authority: chain_of(by),
        notice: forge(&statement(subject, at_ms), by),
    }
}

/// A sample.
pub(crate) fn notice() -> RevocationNotice {
    by(3, 9, 5)
}

fn verify(notice: &RevocationNotice) -> Result<Revocation, TrustError> {
    notice.verify(&public(ROOT), &mesh(), &nobody)
}

fn set_of(notices: &[RevocationNotice]) -> RevocationSet {
    let mut set = RevocationSet::new(public(ROOT));
    for notice in notices {
        set.insert(notice.clone()).unwrap();
    }
    set
}

fn revoked(notices: &[RevocationNotice]) -> Vec<u8> {
    let set = set_of(notices);
    (0..20).filter(|number| set.contains(&public(*number))).collect()
}

#[test]
fn the_root_and_admins_revoke() {
    for signer in [ROOT, FOUNDER, 3, 5] {
        assert_eq!(verify(&by(signer, 9, 5)).unwrap(), statement(9, 5));
        let signed = RevocationNotice::sign(&chain_of(signer), &secret(signer), &statement(9, 5));
        assert_eq!(signed.unwrap(), by(signer, 9, 5));
    }
    let read = RevocationNotice::from_bytes(&notice().to_bytes()).unwrap();
    assert_eq!((read.id(), verify(&read)), (notice().id(), Ok(statement(9, 5))));
}

#[test]
fn nobody_else_revokes() {
    let as_member = |texts: &[&str]| RevocationNotice {
        authority: member(6, &["worker"], texts),
        notice: forge(&statement(9, 5), 6),
    };
    for texts in [
        &[][..],
        &["pub,sub,invite,grant:>:3"],
        &["all:sensor.>:3"],
        &["admin:orders"],
    ] {
        assert!(
            matches!(verify(&as_member(texts)), Err(TrustError::NotAuthorised { .. })),
            "{texts:?}"
        );
    }
    let stranger = RevocationNotice {
        authority: Chain::default(),
        notice: forge(&statement(9, 5), 6),
    };
    assert!(matches!(
        verify(&stranger),
        Err(TrustError::BrokenChain { link: 0, .. })
    ));
    let borrowed = RevocationNotice {
        authority: chain_of(3),
        notice: forge(&statement(9, 5), 6),
    };
    assert!(matches!(verify(&borrowed), Err(TrustError::BrokenChain { .. })));
    let mut foreign = statement(9, 5);
    foreign.mesh = MeshId::from_root(&public(99));
    let foreign = RevocationNotice {
        authority: Chain::default(),
        notice: forge(&foreign, ROOT),
    };
    assert!(matches!(verify(&foreign), Err(TrustError::WrongMesh { .. })));
}

#[test]
fn the_root_and_ones_own_issuers_stay() {
    for (signer, subject) in [
        (ROOT, ROOT),
        (FOUNDER, ROOT),
        (3, ROOT),
        (3, FOUNDER),
        (5, 3),
        (5, FOUNDER),
    ] {
        let result = verify(&by(signer, subject, 5));
        assert!(
            matches!(result, Err(TrustError::NotAuthorised { .. })),
            "{signer} revokes {subject}: {result:?}"
        );
    }
    assert!(verify(&by(3, 3, 5)).is_ok(), "an admin can give up its own key");
}

#[test]
fn authority_is_judged_at_the_time_of_the_revocation() {
    let late = by(3, 9, 31 * DAY_MS);
    assert!(matches!(verify(&late), Err(TrustError::Expired { .. })));
    let mut early = statement(9, 0);
    early.revoked_at_ms = NOW_MS - DAY_MS;
    let early = RevocationNotice {
        authority: chain_of(3),
        notice: forge(&early, 3),
    };
    assert!(
        matches!(verify(&early), Err(TrustError::NotYetValid { .. })),
        "no dating back before the certificate"
    );
    // Nothing asks for today's date, so a revocation that was made in time stays.
    assert!(verify(&by(3, 9, 29 * DAY_MS)).is_ok());
}

#[test]
fn every_flipped_byte_of_a_notice_is_detected() {
    let bytes = notice().to_bytes();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x08;
        let verified = RevocationNotice::from_bytes(&changed)
            .map_err(TrustError::from)
            .and_then(|n| verify(&n));
        assert!(verified.is_err(), "byte {at}");
    }
}

#[test]
fn a_revoked_admin_revokes_no_more() {
    assert_eq!(revoked(&[by(FOUNDER, 3, 10), by(3, 9, 11)]), [3], "after");
    assert_eq!(
        revoked(&[by(FOUNDER, 3, 10), by(3, 9, 10)]),
        [3],
        "at the same time, from nearer to the root"
    );
    assert_eq!(
        revoked(&[by(FOUNDER, 3, 10), by(3, 9, 9)]),
        [3, 9],
        "what was before stands"
    );
    assert_eq!(
        revoked(&[by(FOUNDER, 3, 10), by(5, 9, 11)]),
        [3],
        "who was made an admin by it falls with it"
    );
    assert_eq!(revoked(&[by(4, 3, 10), by(3, 9, 11)]), [3], "by an equal, earlier");
    assert_eq!(
        revoked(&[by(4, 3, 10), by(3, 9, 10)]),
        [3, 9],
        "by an equal, not earlier"
    );
}

#[test]
fn equals_that_revoke_each_other() {
    assert_eq!(revoked(&[by(3, 4, 10), by(4, 3, 10)]), [3, 4]);
    assert_eq!(revoked(&[by(3, 4, 10), by(4, 3, 11)]), [4], "the first one counts");
}

#[test]
fn the_root_has_the_last_word() {
    // A thief with 3's key dates a revocation of everybody back as far as its certificate allows.
    let theft = [by(3, 4, 0), by(3, 9, 0), by(4, 3, 10)];
    assert_eq!(revoked(&theft), [4, 9]);
    let answer = [&theft[..], &[by(FOUNDER, 3, 0)]].concat();
    assert_eq!(revoked(&answer), [3], "4 and 9 are back, and what 4 said counts again");
    assert_eq!(revoked(&[by(5, 9, 0), by(ROOT, 3, 0), by(3, 5, 0)]), [3]);
    // From farther away no date helps against somebody nearer.
    assert_eq!(revoked(&[by(4, 9, 5), by(5, 4, 0)]), [4, 9]);
}

#[test]
fn a_void_notice_is_kept_and_can_count_again() {
    let mut set = set_of(&[by(4, 3, 10), by(3, 9, 11)]);
    assert!(!set.contains(&public(9)));
    let digest = set.digest();
    assert_eq!(set.insert(by(FOUNDER, 4, 0)), Ok(Inserted::Added));
    assert!(set.contains(&public(9)) && !set.contains(&public(3)) && set.contains(&public(4)));
    assert_ne!(set.digest(), digest);
    assert_eq!((set.len(), set.iter().count(), set.keys().count()), (3, 3, 2));
    let counting: Vec<_> = set
        .counting()
        .map(|(revocation, signer)| (revocation.subject, signer))
        .collect();
    assert_eq!(counting, [(public(4), public(FOUNDER)), (public(9), public(3))]);
    assert_eq!(set.get(&public(9)), Some(&statement(9, 11)));
    assert_eq!(set.get(&public(3)), None);
}

#[test]
fn a_notice_counts_once() {
    let mut set = set_of(&[]);
    assert!(set.is_empty());
    assert_eq!(set.insert(notice()), Ok(Inserted::Added));
    let digest = set.digest();
    assert_eq!(set.insert(notice()), Ok(Inserted::Known));
    assert_eq!((set.len(), set.digest()), (1, digest));
    let stranger = RevocationNotice {
        authority: Chain::default(),
        notice: forge(&statement(9, 5), 6),
    };
    assert!(set.insert(stranger).is_err());
    assert_eq!(set.len(), 1);
}

#[test]
fn a_flood_does_not_keep_out_the_root() {
    let mut set = RevocationSet::with_limit(public(ROOT), 3);
    for subject in 10..14 {
        set.insert(by(5, subject, 0)).unwrap();
    }
    assert_eq!(set.len(), 3);
    assert_eq!(set.insert(by(ROOT, 5, 20)), Ok(Inserted::Added));
    assert_eq!(set.insert(by(5, 15, 29)), Ok(Inserted::BeyondBound));
    assert_eq!(set.insert(by(ROOT, 3, 20)), Ok(Inserted::Added));
    assert_eq!(set.len(), 3);
    assert!(set.contains(&public(5)) && set.contains(&public(3)) && !set.contains(&public(15)));
}

/// Every admin about every admin and one member, at a few times; signed once for all cases.
fn pool() -> &'static [RevocationNotice] {
    static POOL: OnceLock<Vec<RevocationNotice>> = OnceLock::new();
    POOL.get_or_init(|| {
        let signers = [ROOT, FOUNDER, 3, 4, 5];
        let subjects = [FOUNDER, 3, 4, 5, 9];
        let all = signers
            .into_iter()
            .flat_map(|signer| subjects.into_iter().map(move |subject| (signer, subject)));
        let all = all.flat_map(|(signer, subject)| [0, 10, 20].map(|at_ms| by(signer, subject, at_ms)));
        all.filter(|notice| verify(notice).is_ok()).collect()
    })
}

fn describe(set: &RevocationSet) -> (Vec<PublicKey>, Vec<[u8; 32]>, [u8; 32], usize) {
    let counting = set
        .counting()
        .map(|(revocation, _)| revocation.nonce[0])
        .map(|n| [n; 32])
        .collect();
    (set.keys().copied().collect(), counting, set.digest(), set.len())
}

/// The rule as the module states it, without its order of evaluation: repeat "void if something that counts voids it" until it holds.
fn by_the_rule(notices: &[RevocationNotice]) -> Vec<PublicKey> {
    let read: Vec<_> = notices
        .iter()
        .map(|n| n.authenticate(&public(ROOT), &mesh(), &nobody).unwrap())
        .collect();
    let mut counts = vec![true; read.len()];
    for _ in 0..=read.len() {
        counts = read
            .iter()
            .map(|(revocation, path)| {
                !read.iter().zip(&counts).any(|((other, other_path), counts)| {
                    let (time, other_time) = (revocation.revoked_at_ms, other.revoked_at_ms);
                    let stronger = (other_path.len() < path.len() && other_time <= time)
                        || (other_path.len() == path.len() && other_time < time);
                    *counts && path.contains(&other.subject) && stronger
                })
            })
            .collect();
    }
    let mut keys: Vec<_> = read
        .iter()
        .zip(counts)
        .filter(|(_, counts)| *counts)
        .map(|((r, _), _)| r.subject)
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

fn some_notices() -> impl Strategy<Value = Vec<RevocationNotice>> {
    prop::collection::btree_set(0..pool().len(), 1..12)
        .prop_map(|picks| picks.iter().map(|at| pool()[*at].clone()).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_arrival_does_not_matter(
        (notices, shuffled) in some_notices().prop_flat_map(|n| (Just(n.clone()), Just(n).prop_shuffle())),
        limit in prop_oneof![Just(usize::MAX), 1usize..6],
    ) {
        let fill = |notices: &[RevocationNotice]| {
            let mut set = RevocationSet::with_limit(public(ROOT), limit);
            for notice in notices {
                set.insert(notice.clone()).unwrap();
            }
            set
        };
        let set = fill(&notices);
        prop_assert_eq!(describe(&set), describe(&fill(&shuffled)));
        let mut at_once = RevocationSet::with_limit(public(ROOT), limit);
        let (_, refused) = at_once.extend(shuffled.clone());
        prop_assert_eq!((describe(&at_once), refused.len()), (describe(&set), 0));
        // Two nodes that each heard a part and then tell each other everything they keep.
        let (mut left, mut right) = (fill(&shuffled[..shuffled.len() / 2]), fill(&shuffled[shuffled.len() / 2..]));
        let from_left: Vec<_> = left.iter().cloned().collect();
        left.extend(right.iter().cloned().collect::<Vec<_>>());
        right.extend(from_left);
        prop_assert_eq!(describe(&left), describe(&right));
        prop_assert_eq!(describe(&left), describe(&set));
    }

    #[test]
    fn the_set_decides_by_the_rule(notices in some_notices()) {
        let set = set_of(&notices);
        prop_assert_eq!(set.keys().copied().collect::<Vec<_>>(), by_the_rule(&notices));
    }
}

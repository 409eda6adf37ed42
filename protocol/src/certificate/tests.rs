use super::chain::check_window;
use super::*;
use crate::capability::Verb;
use crate::error::TrustError;
use crate::limits::CHAIN_LEN_MAX;
use crate::signed::Signed;
use crate::testing::*;

const SKEW_MS: u64 = 1000;

fn verify(chain: &Chain) -> Result<Membership, TrustError> {
    verify_at(chain, NOW_MS)
}

fn verify_at(chain: &Chain, now_ms: u64) -> Result<Membership, TrustError> {
    chain.verify(&public(ROOT), &mesh(), now_ms, SKEW_MS, &nobody)
}

/// A certificate that nobody checked, to build what [`Chain::issue`] refuses to build.
fn certificate(subject: u8, roles: &[&str], texts: &[&str]) -> Certificate {
    let request = request(subject, roles, texts);
    Certificate {
        mesh: mesh(),
        subject: request.subject,
        name: request.name,
        roles: request.roles,
        labels: request.labels,
        grants: request.grants,
        issued_at_ms: NOW_MS,
        not_before_ms: request.not_before_ms,
        not_after_ms: request.not_after_ms,
        serial: [subject; 16],
    }
}

/// `chain` with one more link, signed by whoever.
fn forged(chain: &Chain, certificate: &Certificate, by: u8) -> Chain {
    let mut longer = chain.clone();
    longer.0.push(forge(certificate, by));
    longer
}

fn unauthorised(result: Result<Membership, TrustError>, with: &str) {
    match result {
        Err(TrustError::NotAuthorised { reason, .. }) => assert!(reason.contains(with), "{reason:?}"),
        other => panic!("{other:?} is not about {with:?}"),
    }
}

#[test]
fn a_member_is_what_its_chain_says() {
    let chain = member(3, &["worker"], &["pub,sub:orders.>:1", "call:stock"]);
    let member = verify(&chain).unwrap();
    assert_eq!(
        (member.key, member.peer_id, member.mesh),
        (public(3), public(3).peer_id(), mesh())
    );
    assert_eq!(
        (member.name.as_str(), member.roles.as_slice()),
        ("node-3", strings(&["worker"]).as_slice())
    );
    assert_eq!(
        (member.issuer, member.path.as_slice()),
        (public(FOUNDER), [public(FOUNDER), public(3)].as_slice())
    );
    assert_eq!(
        (member.not_before_ms, member.not_after_ms),
        (NOW_MS, NOW_MS + 30 * DAY_MS)
    );
    assert!(member.permits(Verb::Publish, &"orders.eu".parse().unwrap()));
    assert!(!member.permits(Verb::Call, &"orders.eu".parse().unwrap()));
    assert!(member.has_role("worker") && !member.has_role("founder"));
    assert_eq!(member.renew_at_ms(), NOW_MS + 20 * DAY_MS);
    assert_eq!(Chain::from_bytes(&chain.to_bytes()).unwrap(), chain);
}

#[test]
fn an_empty_chain_shows_nothing() {
    assert!(matches!(
        verify(&Chain::default()),
        Err(TrustError::BrokenChain { link: 0, .. })
    ));
}

#[test]
fn every_link_is_signed_by_the_one_before() {
    let leaf = certificate(3, &["worker"], &["pub:orders.>"]);
    for by in [ROOT, 3, 4] {
        let chain = forged(&founder(), &leaf, by);
        assert!(
            matches!(verify(&chain), Err(TrustError::BrokenChain { link: 1, .. })),
            "signed by {by}"
        );
    }
    let chain = forged(&Chain::default(), &leaf, 4);
    assert!(matches!(verify(&chain), Err(TrustError::BrokenChain { link: 0, .. })));
    let mut swapped = member(3, &["worker"], &[]);
    swapped.0.swap(0, 1);
    assert!(matches!(verify(&swapped), Err(TrustError::BrokenChain { link: 0, .. })));
    let mut beheaded = member(3, &["worker"], &[]);
    beheaded.0.remove(0);
    assert!(matches!(
        verify(&beheaded),
        Err(TrustError::BrokenChain { link: 0, .. })
    ));
}

#[test]
fn every_flipped_byte_of_a_chain_is_detected() {
    let bytes = member(3, &["worker"], &["pub:orders.>"]).to_bytes();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        let verified = Chain::from_bytes(&changed)
            .map_err(TrustError::from)
            .and_then(|chain| verify(&chain));
        assert!(verified.is_err(), "byte {at}");
    }
}

#[test]
fn grants_are_not_widened() {
    let chain = member(
        3,
        &["inviter"],
        &["invite:role.>:2", "pub:orders.>:2", "sub:orders.eu.>:2"],
    );
    let allowed = |texts: &[&str]| verify(&forged(&chain, &certificate(4, &[], texts), 3));
    assert!(allowed(&["pub:orders.eu:1", "sub:orders.eu.*:0", "invite:role.worker:1"]).is_ok());
    assert!(
        allowed(&["pub,sub:orders.eu.*:1"]).is_ok(),
        "two grants together cover a third"
    );
    for wider in [
        "pub:>",
        "pub:orders",
        "sub:orders.>",
        "call:orders.eu",
        "pub,call:orders.eu",
        "all:orders.eu.a",
    ] {
        unauthorised(allowed(&["pub:orders.eu", wider]), "cannot hand on");
    }
}

#[test]
fn depth_runs_out() {
    let chain = member(3, &["inviter"], &["invite:role.>:2", "pub:orders.>:1"]);
    unauthorised(
        verify(&forged(&chain, &certificate(4, &[], &["pub:orders.>:1"]), 3)),
        "cannot hand on",
    );
    let chain = forged(&chain, &certificate(4, &[], &["invite:role.>:1", "pub:orders.>"]), 3);
    assert!(verify(&chain).is_ok());
    unauthorised(
        verify(&forged(&chain, &certificate(5, &[], &["pub:orders.>"]), 4)),
        "cannot hand on",
    );
    let chain = forged(&chain, &certificate(5, &[], &["invite:role.>"]), 4);
    unauthorised(
        verify(&forged(&chain, &certificate(6, &[], &["invite:role.>"]), 5)),
        "cannot hand on",
    );
    assert!(
        verify(&forged(&chain, &certificate(6, &["worker"], &[]), 5)).is_ok(),
        "inviting itself needs no depth"
    );
}

#[test]
fn roles_are_not_widened() {
    let chain = member(3, &["inviter", "gateway"], &["invite:role.worker:1", "pub:>:1"]);
    assert!(verify(&forged(&chain, &certificate(4, &["worker"], &[]), 3)).is_ok());
    for wider in [&["founder"][..], &["worker", "founder"], &["inviter"], &["gateway"]] {
        unauthorised(
            verify(&forged(&chain, &certificate(4, wider, &[]), 3)),
            "invite on role.",
        );
    }
}

#[test]
fn without_invite_nobody_is_invited() {
    for held in [&[][..], &["pub:>:3"], &["grant,admin:>:3"], &["all:sensor.>:3"]] {
        let chain = member(3, &["worker"], held);
        unauthorised(
            verify(&forged(&chain, &certificate(4, &[], &[]), 3)),
            "lacks the verb invite",
        );
    }
}

#[test]
fn a_link_of_another_mesh_does_not_count() {
    let mut foreign = certificate(3, &["worker"], &[]);
    foreign.mesh = crate::MeshId::from_root(&public(99));
    let expected = TrustError::WrongMesh {
        expected: mesh(),
        got: foreign.mesh,
    };
    assert_eq!(verify(&forged(&founder(), &foreign, FOUNDER)), Err(expected.clone()));
    assert_eq!(verify(&forged(&Chain::default(), &foreign, ROOT)), Err(expected));
    // The whole chain of another mesh, its root unknown here.
    let elsewhere = Chain::default()
        .issue(&secret(99), request(3, &["worker"], &[]), [0; 16], NOW_MS)
        .unwrap();
    assert!(matches!(
        verify(&elsewhere),
        Err(TrustError::BrokenChain { link: 0, .. })
    ));
    let claimed = elsewhere.verify(&public(99), &mesh(), NOW_MS, SKEW_MS, &nobody);
    assert!(
        matches!(claimed, Err(TrustError::WrongMesh { .. })),
        "the mesh is the hash of the root"
    );
}

#[test]
fn the_middle_of_a_chain_expires_too() {
    let mut short = request(3, &["inviter"], &["invite:role.>:1"]);
    short.not_after_ms = NOW_MS + DAY_MS;
    let chain = founder().issue(&secret(FOUNDER), short, [3; 16], NOW_MS).unwrap();
    let chain = forged(&chain, &certificate(4, &["worker"], &[]), 3);
    assert_eq!(verify(&chain).unwrap().not_after_ms, NOW_MS + DAY_MS);
    let late_ms = NOW_MS + DAY_MS + SKEW_MS;
    let expired = TrustError::Expired {
        not_after_ms: NOW_MS + DAY_MS,
        now_ms: late_ms,
    };
    assert_eq!(verify_at(&chain, late_ms), Err(expired));
    assert!(verify_at(&chain, late_ms - 1).is_ok(), "within the skew");
    assert!(
        chain.authenticate(&public(ROOT), &mesh(), &nobody).is_ok(),
        "time apart, it holds"
    );
}

#[test]
fn a_chain_is_not_valid_before_its_time() {
    let early_ms = NOW_MS - SKEW_MS - 1;
    let expected = TrustError::NotYetValid {
        not_before_ms: NOW_MS,
        now_ms: early_ms,
    };
    assert_eq!(verify_at(&founder(), early_ms), Err(expected));
    assert!(verify_at(&founder(), early_ms + 1).is_ok(), "within the skew");
    let mut later = certificate(3, &["worker"], &[]);
    (later.not_before_ms, later.not_after_ms) = (NOW_MS + 30 * DAY_MS, NOW_MS + 31 * DAY_MS);
    let never = verify(&forged(&founder(), &later, FOUNDER));
    assert!(
        matches!(never, Err(TrustError::BrokenChain { link: 1, .. })),
        "{never:?}"
    );
}

#[test]
fn the_ends_of_time_do_not_overflow() {
    assert!(check_window(0, u64::MAX, u64::MAX - 1, u64::MAX).is_ok());
    assert!(check_window(u64::MAX - 1, u64::MAX, 0, u64::MAX).is_ok());
    assert!(
        check_window(5, 5, 5, u64::MAX).is_err(),
        "an empty period is not stretched"
    );
    let mut forever = verify(&founder()).unwrap();
    (forever.not_before_ms, forever.not_after_ms) = (0, u64::MAX);
    assert_eq!(forever.renew_at_ms(), u64::MAX / 3 * 2);
}

#[test]
fn a_revoked_key_anywhere_ends_the_chain() {
    let chain = member(3, &["inviter"], &["invite:role.>:1"]);
    let chain = chain
        .issue(&secret(3), request(4, &["worker"], &[]), [4; 16], NOW_MS)
        .unwrap();
    for revoked in [FOUNDER, 3, 4] {
        let key = public(revoked);
        let result = chain.verify(&public(ROOT), &mesh(), NOW_MS, SKEW_MS, &|asked| *asked == key);
        assert_eq!(result, Err(TrustError::Revoked { key }));
    }
}

#[test]
fn no_key_occurs_twice() {
    let chain = member(3, &["inviter"], &["invite:role.>:3"]);
    for twice in [FOUNDER, 3, ROOT] {
        let result = verify(&forged(&chain, &certificate(twice, &["worker"], &[]), 3));
        assert_eq!(result, Err(TrustError::DuplicateKey { key: public(twice) }));
    }
}

#[test]
fn a_chain_has_an_end() {
    let mut chain = founder();
    for number in 3..=9 {
        let grant = format!("invite:role.>:{}", 9 - number);
        let request = request(number, &["inviter"], &[grant.as_str()]);
        chain = chain.issue(&secret(number - 1), request, [number; 16], NOW_MS).unwrap();
    }
    assert_eq!(chain.0.len(), CHAIN_LEN_MAX);
    assert!(verify(&chain).is_ok());
    let result = chain.issue(&secret(9), request(10, &["worker"], &[]), [10; 16], NOW_MS);
    assert_eq!(
        result,
        Err(TrustError::ChainTooLong {
            limit: CHAIN_LEN_MAX,
            got: 9
        })
    );
    let long = forged(&chain, &certificate(10, &["worker"], &[]), 9);
    assert_eq!(
        verify(&long),
        Err(TrustError::ChainTooLong {
            limit: CHAIN_LEN_MAX,
            got: 9
        })
    );
    assert!(Chain::from_bytes(&long.to_bytes()).is_err());
}

#[test]
fn a_chain_always_fits_where_it_travels() {
    let mut bulky = request(FOUNDER, &["founder"], &[]);
    bulky.grants = vec![Grant::everything(9)];
    bulky.labels = (0..25)
        .map(|n| (format!("{n}-{}", "k".repeat(60)), "v".repeat(64)))
        .collect();
    let mut chain = Chain::default()
        .issue(&secret(ROOT), bulky.clone(), [0; 16], NOW_MS)
        .unwrap();
    let mut refused = None;
    for number in 3..=9 {
        bulky.subject = public(number);
        bulky.grants = vec![Grant::everything(10 - number)];
        match chain.issue(&secret(number - 1), bulky.clone(), [0; 16], NOW_MS) {
            Ok(longer) => chain = longer,
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let Some(TrustError::Decode(DecodeError::TooLarge {
        what: "certificate chain",
        ..
    })) = refused
    else {
        panic!("{refused:?}");
    };
    assert!(Chain::from_bytes(&chain.to_bytes()).is_ok());
}

#[test]
fn issuing_refuses_what_would_not_verify() {
    let chain = member(3, &["inviter"], &["invite:role.worker:1", "pub:orders.>:1"]);
    let issue = |request| chain.issue(&secret(3), request, [4; 16], NOW_MS);
    assert!(issue(request(4, &["worker"], &["pub:orders.eu"])).is_ok());
    assert!(matches!(
        issue(request(4, &["founder"], &[])),
        Err(TrustError::NotAuthorised { .. })
    ));
    assert!(matches!(
        issue(request(4, &["worker"], &["pub:>"])),
        Err(TrustError::NotAuthorised { .. })
    ));
    assert!(matches!(
        issue(request(3, &["worker"], &[])),
        Err(TrustError::DuplicateKey { .. })
    ));
    let stranger = chain.issue(&secret(4), request(5, &["worker"], &[]), [5; 16], NOW_MS);
    assert!(matches!(stranger, Err(TrustError::BrokenChain { link: 2, .. })));
    let late = chain.issue(&secret(3), request(4, &["worker"], &[]), [4; 16], NOW_MS + 31 * DAY_MS);
    assert!(
        matches!(late, Err(TrustError::Expired { .. })),
        "an issuer that has expired issues nothing"
    );
    let mut long = request(4, &["worker"], &[]);
    long.not_after_ms = NOW_MS + 400 * DAY_MS;
    let cut = issue(long).unwrap();
    assert_eq!(
        cut.peek_leaf().unwrap().not_after_ms,
        NOW_MS + 30 * DAY_MS,
        "no longer than the issuer's own"
    );
    let member = verify(&chain).unwrap();
    assert!(
        member
            .can_issue(&strings(&["worker"]), &grants(&["pub:orders.eu"]))
            .is_ok()
    );
    assert!(member.can_issue(&strings(&["founder"]), &[]).is_err());
}

#[test]
fn names_keep_to_their_grammar() {
    let with = |change: &dyn Fn(&mut Certificate)| {
        let mut certificate = certificate(3, &["worker"], &["pub:orders.>"]);
        change(&mut certificate);
        Signed::sign(&certificate, &secret(ROOT))
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    assert_eq!(with(&|_| {}), "");
    for bad in ["", "A", "-a", ".a", "a.", "a..b", "a b", "ä", "a\n", &"a".repeat(65)] {
        assert!(with(&|c| c.name = bad.to_owned()).starts_with("name is "), "{bad:?}");
        assert!(
            with(&|c| c.roles = vec![bad.to_owned()]).starts_with("role is "),
            "{bad:?}"
        );
        assert!(
            with(&|c| c.labels = vec![(bad.to_owned(), "v".to_owned())]).starts_with("label is "),
            "{bad:?}"
        );
    }
    assert_eq!(
        with(&|c| c.roles = strings(&["a", "a"])),
        "roles is invalid: \"a\" occurs twice"
    );
    assert_eq!(
        with(&|c| c.labels.extend(c.labels.clone())),
        "labels is invalid: \"zone\" occurs twice"
    );
    assert!(with(&|c| c.roles = (0..17).map(|n| n.to_string()).collect()).contains("roles is too large: 17"));
    assert!(with(&|c| c.grants = vec![Grant::everything(1); 65]).contains("grants is too large: 65"));
    assert!(with(&|c| c.grants[0].verbs = crate::Verbs::NONE).contains("no verb"));
    assert!(with(&|c| c.not_after_ms = c.not_before_ms).contains("ends"));
}

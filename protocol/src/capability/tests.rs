use proptest::prelude::*;

use super::*;
use crate::certificate::Chain;
use crate::codec::Wire;
use crate::error::{DecodeError, TrustError};
use crate::signed::Signed;
use crate::subject::{Pattern, Subject};
use crate::testing::*;

fn ask(audience: Audience, texts: &[&str]) -> CapabilityRequest {
    CapabilityRequest {
        audience,
        grants: grants(texts),
        not_before_ms: NOW_MS,
        not_after_ms: NOW_MS + DAY_MS,
    }
}

fn key(number: u8) -> Audience {
    Audience::Key(public(number))
}

/// From a member with the verb `grant` to a key and from there to a role.
pub(crate) fn token() -> CapabilityToken {
    let authority = member(3, &["owner"], &["grant:orders.>", "pub,sub:orders.>:2"]);
    let token = CapabilityToken::issue(
        &authority,
        &secret(3),
        ask(key(5), &["pub,sub:orders.eu.>:1"]),
        [1; 16],
        NOW_MS,
    );
    let role = Audience::Role(String::from("auditor"));
    token
        .unwrap()
        .delegate(&secret(5), ask(role, &["sub:orders.eu.*"]), [2; 16], NOW_MS)
        .unwrap()
}

fn verify(token: &CapabilityToken) -> Result<Effective, TrustError> {
    token.verify(&public(ROOT), &mesh(), NOW_MS, &nobody)
}

/// A link that nobody checked.
fn link(audience: Audience, texts: &[&str]) -> Capability {
    let CapabilityRequest {
        audience,
        grants,
        not_before_ms,
        not_after_ms,
    } = ask(audience, texts);
    Capability {
        mesh: mesh(),
        audience,
        grants,
        not_before_ms,
        not_after_ms,
        nonce: [9; 16],
    }
}

fn forged(authority: Chain, links: &[(&Capability, u8)]) -> CapabilityToken {
    CapabilityToken {
        authority,
        links: links.iter().map(|(link, by)| forge(*link, *by)).collect(),
    }
}

fn unauthorised(result: Result<Effective, TrustError>, with: &str) {
    match result {
        Err(TrustError::NotAuthorised { reason, .. }) => assert!(reason.contains(with), "{reason:?}"),
        other => panic!("{other:?} is not about {with:?}"),
    }
}

#[test]
fn a_token_is_what_its_last_link_says() {
    let effective = verify(&token()).unwrap();
    assert_eq!(effective.audience, Audience::Role(String::from("auditor")));
    assert_eq!(effective.grants, grants(&["sub:orders.eu.*"]));
    assert_eq!((effective.issuer, effective.mesh), (public(3), mesh()));
    assert_eq!(
        (effective.not_before_ms, effective.not_after_ms),
        (NOW_MS, NOW_MS + DAY_MS)
    );
    assert_eq!(effective.path, [public(FOUNDER), public(3), public(5)]);
    let subject: Subject = "orders.eu.created".parse().unwrap();
    assert!(effective.permits(Verb::Subscribe, &subject) && !effective.permits(Verb::Publish, &subject));
    assert!(effective.is_for(&public(8), &strings(&["auditor"])) && !effective.is_for(&public(5), &[]));
}

#[test]
fn the_root_may_grant_everything() {
    let root = |texts: &[&str]| {
        CapabilityToken::issue(&Chain::default(), &secret(ROOT), ask(key(5), texts), [0; 16], NOW_MS).unwrap()
    };
    let token = root(&["all:>:3"]);
    let effective = verify(&token).unwrap();
    assert_eq!(
        (effective.issuer, effective.path.as_slice()),
        (public(ROOT), [public(5)].as_slice())
    );
    assert!(effective.is_for(&public(5), &[]) && !effective.is_for(&public(6), &[]));
    assert!(verify(&root(&["pub:$weft.>"])).is_ok());
    let stranger = forged(Chain::default(), &[(&link(key(5), &["pub:a"]), 4)]);
    assert!(matches!(
        verify(&stranger),
        Err(TrustError::BrokenChain { link: 0, .. })
    ));
}

#[test]
fn a_member_grants_only_what_it_holds_with_depth_and_the_verb() {
    let first =
        |held: &[&str], given: &[&str]| verify(&forged(member(3, &["owner"], held), &[(&link(key(5), given), 3)]));
    assert!(first(&["grant:orders.>", "pub:orders.>:1"], &["pub:orders.eu"]).is_ok());
    unauthorised(first(&["pub:orders.>:1"], &["pub:orders.eu"]), "lacks the verb grant");
    unauthorised(
        first(&["grant:stock.>", "pub:orders.>:1"], &["pub:orders.eu"]),
        "lacks the verb grant",
    );
    unauthorised(
        first(&["grant:orders.eu", "pub:orders.>:1"], &["pub:orders.>"]),
        "lacks the verb grant",
    );
    unauthorised(
        first(&["grant:orders.>", "pub:orders.>"], &["pub:orders.eu"]),
        "cannot hand on",
    );
    unauthorised(
        first(&["grant:orders.>", "pub:orders.>:1"], &["pub:orders.eu:1"]),
        "cannot hand on",
    );
    unauthorised(
        first(&["grant:orders.>", "pub:orders.>:1"], &["sub:orders.eu"]),
        "cannot hand on",
    );
    unauthorised(
        first(&["grant:orders.>", "pub:orders.>:1"], &["pub:>"]),
        "cannot hand on",
    );
    let other = forged(member(3, &["owner"], &["all:>:3"]), &[(&link(key(5), &["pub:a"]), 4)]);
    assert!(
        matches!(verify(&other), Err(TrustError::BrokenChain { link: 0, .. })),
        "signed by somebody else"
    );
}

#[test]
fn later_links_only_narrow() {
    let authority = member(3, &["owner"], &["all:>:5"]);
    let first = link(key(5), &["pub,sub:orders.>:2"]);
    let second =
        |given: &[&str], by: u8| verify(&forged(authority.clone(), &[(&first, 3), (&link(key(6), given), by)]));
    assert!(second(&["pub:orders.eu:1"], 5).is_ok());
    for wider in [
        "pub:>",
        "pub:orders.>:2",
        "pub,call:orders.eu",
        "all:orders.eu",
        "sub:stock",
    ] {
        unauthorised(second(&[wider], 5), "cannot hand on");
    }
    for by in [3, 4, 6, ROOT] {
        let broken = second(&["pub:orders.eu"], by);
        assert!(
            matches!(broken, Err(TrustError::BrokenChain { link: 1, .. })),
            "signed by {by}: {broken:?}"
        );
    }
    let role = link(Audience::Role(String::from("worker")), &["pub:orders.>:2"]);
    let after_role = forged(authority, &[(&role, 3), (&link(key(6), &["pub:orders.eu"]), 5)]);
    assert!(matches!(
        verify(&after_role),
        Err(TrustError::BrokenChain { link: 1, .. })
    ));
}

#[test]
fn a_link_moved_to_another_token_does_not_count() {
    let authority = member(3, &["owner"], &["all:>:5"]);
    let to_five = link(key(5), &["pub:orders.>:2"]);
    let mut foreign = to_five;
    foreign.mesh = crate::MeshId::from_root(&public(99));
    let wrong = verify(&forged(authority.clone(), &[(&foreign, 3)]));
    assert_eq!(
        wrong,
        Err(TrustError::WrongMesh {
            expected: mesh(),
            got: foreign.mesh
        })
    );
    // 5 signed a link under a wide token; put under a narrow one it must not carry its width along.
    let narrow = link(key(5), &["pub:orders.eu:1"]);
    let spliced = forged(authority, &[(&narrow, 3), (&link(key(6), &["pub:orders.>"]), 5)]);
    unauthorised(verify(&spliced), "cannot hand on");
}

#[test]
fn time_is_the_intersection() {
    let mut first = link(key(5), &["pub:orders.>:2"]);
    first.not_before_ms = NOW_MS - DAY_MS;
    first.not_after_ms = NOW_MS + 10 * DAY_MS;
    let mut second = link(key(6), &["pub:orders.>:1"]);
    second.not_after_ms = NOW_MS + 90 * DAY_MS;
    let token = forged(member(3, &["owner"], &["all:>:5"]), &[(&first, 3), (&second, 5)]);
    let effective = verify(&token).unwrap();
    assert_eq!(
        (effective.not_before_ms, effective.not_after_ms),
        (NOW_MS, NOW_MS + 10 * DAY_MS)
    );
    let late = token.verify(&public(ROOT), &mesh(), NOW_MS + 11 * DAY_MS, &nobody);
    assert!(matches!(late, Err(TrustError::Expired { .. })));
    let rooted = forged(Chain::default(), &[(&second, ROOT)]);
    assert!(
        rooted
            .verify(&public(ROOT), &mesh(), NOW_MS + 60 * DAY_MS, &nobody)
            .is_ok()
    );
    let issuer_gone = token.verify(&public(ROOT), &mesh(), NOW_MS + 31 * DAY_MS, &nobody);
    assert!(
        matches!(issuer_gone, Err(TrustError::Expired { .. })),
        "no longer than the issuer's certificates"
    );
}

#[test]
fn a_revoked_key_anywhere_ends_the_token() {
    let token = token();
    for revoked in [FOUNDER, 3, 5] {
        let key = public(revoked);
        let result = token.verify(&public(ROOT), &mesh(), NOW_MS, &|asked| *asked == key);
        assert_eq!(result, Err(TrustError::Revoked { key }));
    }
}

#[test]
fn every_flipped_byte_of_a_token_is_detected() {
    let bytes = token().to_bytes();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x04;
        let verified = CapabilityToken::from_bytes(&changed)
            .map_err(TrustError::from)
            .and_then(|token| verify(&token));
        assert!(verified.is_err(), "byte {at}");
    }
}

#[test]
fn a_token_is_bounded() {
    let none = CapabilityToken {
        authority: Chain::default(),
        links: Vec::new(),
    };
    assert!(matches!(verify(&none), Err(TrustError::BrokenChain { .. })));
    assert!(CapabilityToken::from_bytes(&none.to_bytes()).is_err());
    let many: Vec<_> = (0..9).map(|_| forge(&link(key(5), &["pub:a"]), ROOT)).collect();
    let many = CapabilityToken {
        authority: Chain::default(),
        links: many,
    };
    assert_eq!(verify(&many), Err(TrustError::ChainTooLong { limit: 8, got: 9 }));
    let texts: Vec<String> = (0..12).map(|n| format!("pub:t{n}.{}:3", "a".repeat(120))).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let issue = || CapabilityToken::issue(&Chain::default(), &secret(ROOT), ask(key(5), &texts), [0; 16], NOW_MS);
    let error = issue()
        .unwrap()
        .delegate(&secret(5), ask(key(6), &["pub:t1.a"]), [0; 16], NOW_MS)
        .unwrap_err();
    assert!(matches!(error, TrustError::NotAuthorised { .. }));
    let narrower: Vec<String> = texts.iter().map(|text| text.replace(":3", ":2")).collect();
    let narrower: Vec<&str> = narrower.iter().map(String::as_str).collect();
    let error = issue()
        .unwrap()
        .delegate(&secret(5), ask(key(6), &narrower), [0; 16], NOW_MS)
        .unwrap_err();
    let too_large = matches!(
        error,
        TrustError::Decode(DecodeError::TooLarge {
            what: "capability token",
            ..
        })
    );
    assert!(too_large, "a token that fits into no hello is not made: {error:?}");
}

#[test]
fn a_token_is_text_that_notices_mistakes() {
    let text = token().to_string();
    assert!(text.starts_with("weftcap1"));
    assert_eq!(text.parse(), Ok(token()));
    assert_eq!(text.to_ascii_uppercase().parse(), Ok(token()));
    for at in 0..text.len() {
        let other = if text.as_bytes()[at] == b'q' { "r" } else { "q" };
        let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
        assert!(changed.parse::<CapabilityToken>().is_err(), "character {at}");
    }
}

#[test]
fn verbs_are_words() {
    assert_eq!(
        "pub, sub".parse::<Verbs>().unwrap(),
        Verbs::one(Verb::Publish).with(Verb::Subscribe)
    );
    assert_eq!(
        ("all".parse(), Verbs::ALL.to_string()),
        (Ok(Verbs::ALL), String::from("all"))
    );
    assert_eq!(Verbs::ALL.iter().count(), 10);
    for (code, verb) in Verb::ALL.into_iter().enumerate() {
        assert_eq!(
            (usize::from(verb.code()), Verb::from_code(code as u8)),
            (code, Some(verb))
        );
        assert_eq!(verb.as_str().parse(), Ok(verb));
        assert_eq!(crate::codec::encode(&verb), [code as u8], "the code is the wire");
    }
    assert_eq!(Verb::from_code(10), None);
    for bad in ["", "pub,", "publish", "PUB", "pub sub", "all,pub", &"pub,".repeat(100)] {
        assert!(bad.parse::<Verbs>().is_err(), "{bad:?}");
    }
    assert_eq!(
        (Verbs::from_bits(1 << 10), Verbs::from_bits(0x3ff)),
        (None, Some(Verbs::ALL))
    );
    assert!(crate::codec::decode::<Verbs>(&[0x19, 0x04, 0x00], 9, "verbs").is_err());
}

#[test]
fn grants_are_text_and_json() {
    for text in ["pub,sub:orders.>", "call:stock.count:2", "all:>:255"] {
        assert_eq!(text.parse::<Grant>().unwrap().to_string(), text);
    }
    for bad in [
        "",
        "pub",
        "pub:",
        ":a",
        "pub:a:",
        "pub:a:256",
        "pub:a:-1",
        "pub:a:1:2",
        "pub:a b",
        "x:a",
    ] {
        assert!(bad.parse::<Grant>().is_err(), "{bad:?}");
    }
    let json = serde_json::to_string(&grants(&["pub,sub:orders.>:1"])).unwrap();
    assert_eq!(json, r#"[{"verbs":"pub,sub","resource":"orders.>","depth":1}]"#);
    assert_eq!(
        serde_json::from_str::<Vec<Grant>>(&json).unwrap(),
        grants(&["pub,sub:orders.>:1"])
    );
}

/// Patterns over few tokens, so that they often overlap.
fn any_pattern() -> impl Strategy<Value = Pattern> {
    prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("*"), Just(">")], 1..4).prop_map(|mut tokens| {
        if let Some(at) = tokens.iter().position(|token| *token == ">") {
            tokens.truncate(at + 1);
        }
        tokens.join(".").parse().unwrap()
    })
}

fn any_grants(depth: u8) -> impl Strategy<Value = Vec<Grant>> {
    let grant = (1u16..0x400, any_pattern(), 0..=depth)
        .prop_map(|(bits, resource, depth)| Grant::new(Verbs::from_bits(bits).unwrap(), resource, depth));
    prop::collection::vec(grant, 1..4)
}

/// Narrowed versions of the given grants, with a stray one at times.
fn any_children() -> impl Strategy<Value = (Vec<Grant>, Vec<Grant>)> {
    (any_grants(4), any_grants(1), any::<u16>(), any::<bool>()).prop_map(|(held, stray, bits, keep)| {
        let narrowed = held.iter().filter_map(|grant| {
            let verbs = Verbs::from_bits(grant.verbs.bits() & bits)?;
            let depth = grant.depth.checked_sub(1)?;
            (!verbs.is_empty()).then(|| Grant::new(verbs, grant.resource.clone(), depth))
        });
        let narrowed: Vec<Grant> = narrowed.chain(keep.then(|| stray[0].clone())).collect();
        (held, narrowed)
    })
}

fn subjects() -> impl Iterator<Item = Subject> {
    let texts = [
        "a", "b", "c", "a.a", "a.b", "b.a", "b.c", "c.c", "a.b.a", "b.b.b", "a.c.b", "a.a.a.a", "c.b.a.b",
    ];
    texts.into_iter().map(|text| text.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever a forger signs: if it verifies, it allows nothing that the link before did not.
    #[test]
    fn attenuation_never_widens((held, given) in any_children()) {
        let mut first = link(key(5), &[]);
        first.grants = held.clone();
        let mut second = link(key(6), &[]);
        second.grants = given.clone();
        let token = forged(Chain::default(), &[(&first, ROOT), (&second, 5)]);
        let verified = verify(&token);
        prop_assert_eq!(verified.is_ok(), given.iter().all(|grant| covered(&held, grant)));
        if let Ok(effective) = verified {
            for (verb, subject) in verbs().flat_map(|verb| subjects().map(move |subject| (verb, subject))) {
                prop_assert!(!effective.permits(verb, &subject) || permits(&held, verb, &subject), "{verb} {subject}");
            }
            let deepest = |grants: &[Grant]| grants.iter().map(|grant| grant.depth).max();
            prop_assert!(deepest(&given).is_none_or(|depth| Some(depth) < deepest(&held)));
        }
    }

    /// Delegating agrees with verifying, and what it makes can be sent.
    #[test]
    fn delegating_agrees_with_verifying((held, given) in any_children()) {
        let request = |audience, grants| CapabilityRequest { grants, ..ask(audience, &[]) };
        let token = CapabilityToken::issue(&Chain::default(), &secret(ROOT), request(key(5), held.clone()), [0; 16], NOW_MS);
        let token = token.unwrap().delegate(&secret(5), request(key(6), given.clone()), [1; 16], NOW_MS);
        prop_assert_eq!(token.is_ok(), given.iter().all(|grant| covered(&held, grant)));
        if let Ok(token) = token {
            prop_assert_eq!(&verify(&token).unwrap().grants, &given);
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }
    }

    #[test]
    fn covering_is_a_strict_order(grants in any_grants(4)) {
        for grant in &grants {
            prop_assert!(!grant.covers(grant), "handing on costs a step");
            prop_assert!(grant.contains(grant));
        }
    }
}

#[test]
fn a_signed_link_is_not_a_token() {
    let signed: Signed<Capability> = forge(&link(key(5), &["pub:a"]), ROOT);
    assert!(CapabilityToken::from_bytes(&signed.to_bytes()).is_err());
}

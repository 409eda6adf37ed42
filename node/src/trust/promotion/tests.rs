use super::{super::tests::*, *};
use crate::{error::ErrorKind, testing::TestPlatform};

fn grant(text: &str) -> Grant {
    text.parse().unwrap()
}

/// What control does on a connection of the two.
async fn connect(issuer: &Trust, member: &Trust) {
    assert_eq!(proves(issuer, member), Ok(()));
    if let Some((_, chain)) = issuer.promised(&member.local_peer()).await {
        member.replace_certificate(chain.clone()).await.unwrap();
        issuer.handed_over(&member.local_peer(), &chain).await;
    }
}

#[tokio::test]
async fn a_promise_outlives_a_restart_and_ends_when_it_is_kept() {
    let platform = TestPlatform::new();
    let a = founder(&platform).await;
    let b = admitted(&platform, &a, 2, &[]).await;
    assert_eq!(proves(&a, &b), Ok(()));
    let role = subject("role.member");
    assert!(!b.may_admit(&["member".to_owned()]));
    a.promise(&b.local_peer(), grant("invite:role.member")).await.unwrap();
    let explained = a.explain(&b.local_peer(), Verb::Invite, &role);
    assert!(!explained.allowed);
    assert!(
        explained.because.iter().any(|b| b.contains("promised")),
        "{explained:?}"
    );
    drop(a);
    let a = crate::testing::trust(1, &platform).await;
    assert_eq!(a.promises().len(), 1);
    connect(&a, &b).await;
    assert!(a.promises().is_empty());
    assert!(a.explain(&b.local_peer(), Verb::Invite, &role).allowed);
    assert!(b.explain(&b.local_peer(), Verb::Invite, &role).allowed);
    assert!(b.may_admit(&["member".to_owned()]));
    assert!(!b.may_admit(&["admin".to_owned()]));
    // A second promise keeps the first, and b lets somebody in.
    a.promise(&b.local_peer(), grant("invite:role.worker")).await.unwrap();
    connect(&a, &b).await;
    assert!(b.may_admit(&["member".to_owned(), "worker".to_owned()]));
    let c = admitted(&platform, &b, 3, &[]).await;
    assert_eq!(proves(&a, &c), Ok(()));
    drop((a, b));
    let a = crate::testing::trust(1, &platform).await;
    assert!(a.promises().is_empty(), "kept and forgotten for good");
    let b = crate::testing::trust(2, &platform).await;
    assert!(b.may_admit(&["worker".to_owned()]), "durable at the member");
}

#[tokio::test]
async fn a_renewal_before_and_after_loses_nothing() {
    let platform = TestPlatform::new();
    let a = founder(&platform).await;
    let b = admitted(&platform, &a, 2, &[]).await;
    assert_eq!(proves(&a, &b), Ok(()));
    a.promise(&b.local_peer(), grant("invite:role.member")).await.unwrap();
    let plain = a.renew(&b.local_peer(), &b.chain()).unwrap();
    b.replace_certificate(plain.clone()).await.unwrap();
    connect(&a, &b).await;
    assert!(b.may_admit(&["member".to_owned()]));
    // The answer to an older request for renewal comes late.
    let error = b.replace_certificate(plain).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("invite"), "{error}");
    platform.clock.advance(std::time::Duration::from_secs(61 * 86_400));
    let fresh = a.renew(&b.local_peer(), &b.chain()).unwrap();
    b.replace_certificate(fresh).await.unwrap();
    assert!(b.may_admit(&["member".to_owned()]));
}

#[tokio::test]
async fn nobody_weakens_a_member_by_a_certificate() {
    let platform = TestPlatform::new();
    let a = founder(&platform).await;
    let b = admitted(&platform, &a, 2, &["member", "worker"]).await;
    for trust in [&a, &b] {
        let own = trust.own_membership().unwrap();
        let try_with = async |options: IssueOptions, name: &str, issuer: &Trust| {
            let chain = issuer.issue(b.public_key(), name, &options).unwrap();
            b.replace_certificate(chain).await.map_err(|e| e.to_string())
        };
        if own.key == b.public_key() {
            continue;
        }
        let roles = |names: &[&str]| IssueOptions {
            roles: names.iter().map(|n| (*n).to_owned()).collect(),
            ..IssueOptions::default()
        };
        let both = roles(&["member", "worker"]);
        for (options, name, why) in [
            (roles(&["member"]), "m", "role worker"),
            (
                IssueOptions {
                    ttl_ms: Some(60_000),
                    ..both.clone()
                },
                "m",
                "time",
            ),
            (both.clone(), "other", "name"),
            (
                IssueOptions {
                    labels: vec![("zone".to_owned(), "x".to_owned())],
                    ..both.clone()
                },
                "m",
                "labels",
            ),
        ] {
            let error = try_with(options, name, trust).await.unwrap_err();
            assert!(error.contains(why), "{why}: {error}");
        }
        platform.clock.advance(std::time::Duration::from_secs(1));
        try_with(both, "m", trust).await.unwrap();
    }
    // Another's certificate is none.
    let c = admitted(&platform, &a, 3, &[]).await;
    assert!(b.replace_certificate(c.chain()).await.is_err());
}

#[tokio::test]
async fn what_cannot_be_given_is_refused_at_once() {
    let platform = TestPlatform::new();
    let a = founder(&platform).await;
    let b = admitted(&platform, &a, 2, &[]).await;
    let c = admitted(&platform, &a, 3, &[]).await;
    for (judge, who) in [(&a, &b), (&a, &c), (&b, &c), (&c, &b)] {
        assert_eq!(proves(judge, who), Ok(()));
    }
    let kind = async |by: &Trust, to: &Trust, text: &str| {
        let promised = by.promise(&to.local_peer(), grant(text)).await;
        promised.map(|_| ()).map_err(|e| e.kind())
    };
    assert_eq!(kind(&b, &c, "invite:role.member").await, Err(ErrorKind::Denied));
    assert_eq!(kind(&a, &b, "invite:member").await, Err(ErrorKind::Invalid));
    assert_eq!(kind(&a, &b, "admin:orders.>").await, Err(ErrorKind::Invalid));
    assert_eq!(kind(&a, &a, "invite:role.member").await, Err(ErrorKind::Invalid));
    let unknown = crate::testing::trust(9, &platform).await;
    assert_eq!(kind(&a, &unknown, "invite:role.member").await, Err(ErrorKind::NotFound));
    assert!(a.promises().is_empty());
    // No deeper than it was given.
    assert_eq!(kind(&a, &b, "invite:role.member:1").await, Ok(()));
    connect(&a, &b).await;
    assert_eq!(kind(&b, &c, "invite:role.member:1").await, Err(ErrorKind::Denied));
    // As a capability, the right would be worth nothing.
    let request = crate::trust::guard::GrantRequest {
        resource: "role.member".parse().unwrap(),
        depth: 0,
        ttl_ms: 1000,
    };
    let audience = weft_protocol::Audience::Key(c.public_key());
    let error = a.grant(audience, Verbs::one(Verb::Invite), request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    // A revoked member gets nothing any more, also not after a restart.
    assert_eq!(kind(&a, &c, "admin:mesh.revocation").await, Ok(()));
    a.revoke(&c.local_peer(), "test").await.unwrap();
    assert!(a.promises().is_empty());
    drop(a);
    assert!(crate::testing::trust(1, &platform).await.promises().is_empty());
}

#[tokio::test]
async fn a_capability_is_handed_on_as_deep_as_it_was_given() {
    let platform = TestPlatform::new();
    let a = founder(&platform).await;
    let b = admitted(&platform, &a, 2, &["b"]).await;
    let c = admitted(&platform, &a, 3, &["c"]).await;
    for (judge, who) in [(&a, &b), (&a, &c), (&c, &b), (&b, &c)] {
        assert_eq!(proves(judge, who), Ok(()));
    }
    let request = |depth| crate::trust::guard::GrantRequest {
        resource: "greet".parse().unwrap(),
        depth,
        ttl_ms: 60_000,
    };
    let to = |who: &Trust| weft_protocol::Audience::Key(who.public_key());
    let call = Verbs::one(Verb::Call);
    let token = a.grant(to(&b), call, request(1)).await.unwrap().token;
    assert!(
        b.grant(to(&c), call, request(0)).await.is_err(),
        "it does not have it yet"
    );
    b.keep(token).await.unwrap();
    assert!(b.grant(to(&c), call, request(1)).await.is_err(), "no deeper");
    let handed_on = b.grant(to(&c), call, request(0)).await.unwrap().token;
    assert!(
        a.check(
            &c.local_peer(),
            Verb::Call,
            &subject("greet"),
            std::slice::from_ref(&handed_on)
        )
        .allowed
    );
    c.keep(handed_on).await.unwrap();
    assert!(c.grant(to(&a), call, request(0)).await.is_err(), "the end of it");
}

use super::*;
use crate::testing::*;

fn open(signed: &Signed<NodeRecord>, is_open: bool, now_ms: u64) -> Result<Option<Membership>, TrustError> {
    NodeRecord::open(signed, &public(ROOT), &mesh(), is_open, now_ms, &nobody).map(|(_, member)| member)
}

fn ours() -> NodeRecord {
    record(3, member(3, &["worker"], &["pub:orders.>"]))
}

#[test]
fn a_record_shows_its_member() {
    let signed = forge(&ours(), 3);
    assert_eq!(open(&signed, false, NOW_MS).unwrap().unwrap().key, public(3));
    assert_eq!(
        (ours().announcement("pub_sub"), ours().announcement("etl")),
        (Some(&[1, 2, 3][..]), None)
    );
    assert_eq!(ours().expires_at_ms(), NOW_MS + DAY_MS);
}

#[test]
fn a_record_is_for_its_signer_alone() {
    let borrowed = forge(&ours(), 4);
    assert!(matches!(
        open(&borrowed, false, NOW_MS),
        Err(TrustError::NotAuthorised { .. })
    ));
    assert!(
        matches!(open(&borrowed, true, NOW_MS), Err(TrustError::NotAuthorised { .. })),
        "nor in an open mesh"
    );
}

#[test]
fn only_an_open_mesh_takes_a_record_without_certificates() {
    let bare = forge(&record(7, Chain::default()), 7);
    assert!(matches!(
        open(&bare, false, NOW_MS),
        Err(TrustError::BrokenChain { .. })
    ));
    assert_eq!(open(&bare, true, NOW_MS), Ok(None));
    let revoked = NodeRecord::open(&bare, &public(ROOT), &mesh(), true, NOW_MS, &|_| true);
    assert_eq!(revoked, Err(TrustError::Revoked { key: public(7) }));
}

#[test]
fn a_record_has_its_mesh_and_time() {
    let signed = forge(&ours(), 3);
    assert!(matches!(
        open(&signed, false, NOW_MS + DAY_MS + CLOCK_SKEW_MS_MAX),
        Err(TrustError::Expired { .. })
    ));
    assert!(matches!(
        open(&signed, false, NOW_MS - CLOCK_SKEW_MS_MAX - 1),
        Err(TrustError::NotYetValid { .. })
    ));
    let mut foreign = ours();
    foreign.mesh = MeshId::from_root(&public(99));
    assert!(matches!(
        open(&forge(&foreign, 3), false, NOW_MS),
        Err(TrustError::WrongMesh { .. })
    ));
}

#[test]
fn every_field_has_a_limit() {
    let refused = |change: &dyn Fn(&mut NodeRecord)| {
        let mut record = ours();
        change(&mut record);
        Signed::sign(&record, &secret(3)).unwrap_err().to_string()
    };
    let entry = |key: &str, length: usize| Announcement {
        key: key.to_owned(),
        value: vec![0; length],
    };
    assert!(refused(&|r| r.ttl_ms = 0).contains("life"));
    assert!(refused(&|r| r.ttl_ms = RECORD_TTL_MS_MAX + 1).contains("life"));
    assert!(refused(&|r| r.name = String::from("A")).starts_with("name is invalid"));
    assert!(refused(&|r| r.agent = "a".repeat(129)).starts_with("agent is too large"));
    assert!(refused(&|r| r.version = String::from("\u{1b}")).starts_with("version is invalid"));
    assert!(refused(&|r| r.addresses = vec!["/memory/1".parse().unwrap(); 17]).starts_with("addresses is too large"));
    assert!(refused(&|r| r.announcements = vec![entry("a", 1); 2]).contains("occurs twice"));
    assert!(refused(&|r| r.announcements = vec![entry("a", 8193)]).starts_with("announcement is too large"));
    let heavy: Vec<_> = (0..5).map(|n| entry(&format!("a{n}"), 8000)).collect();
    assert!(refused(&|r| r.announcements = heavy.clone()).starts_with("node record is too large"));
}

#[test]
fn the_largest_signed_record_stays_within_its_limit() {
    let mut record = ours();
    record.announcements = vec![];
    let room = NodeRecord::BYTES_MAX - record.to_bytes().len() - 64;
    let values = [8000, 8000, 8000, room - 24_000];
    record.announcements = values
        .iter()
        .enumerate()
        .map(|(n, size)| Announcement {
            key: format!("a{n}"),
            value: vec![7; *size],
        })
        .collect();
    let signed = Signed::sign(&record, &secret(3)).unwrap();
    assert!(signed.to_bytes().len() <= RECORD_BYTES_MAX);
    assert_eq!(Signed::<NodeRecord>::from_bytes(&signed.to_bytes()), Ok(signed));
}

use proptest::prelude::*;

use super::*;
use crate::testing::{ROOT, mesh, public, secret};

/// The points of order 1, 2, 4 and 8, in their canonical form.
const SMALL_ORDER: [&str; 8] = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
];

fn bytes(hex: &str) -> [u8; 32] {
    data_encoding::HEXLOWER
        .decode(hex.as_bytes())
        .unwrap()
        .try_into()
        .unwrap()
}

#[test]
fn keys_that_verify_too_much_are_refused() {
    for hex in SMALL_ORDER {
        let error = PublicKey::from_bytes(bytes(hex)).unwrap_err().to_string();
        assert!(error.contains("small order"), "{hex}: {error}");
    }
    // p, p + 1 and p + 18 are other ways to write 0, 1 and 18.
    for low in [0xed, 0xee, 0xff] {
        let mut key = [0xff; 32];
        (key[0], key[31]) = (low, 0x7f);
        let error = PublicKey::from_bytes(key).unwrap_err().to_string();
        assert!(error.contains("canonical"), "{low:#x}: {error}");
    }
    let mut no_point = [0; 32];
    no_point[0] = 2;
    assert!(
        PublicKey::from_bytes(no_point)
            .unwrap_err()
            .to_string()
            .contains("not a point")
    );
}

#[test]
fn what_is_remembered_of_keys_makes_no_key_good_or_bad() {
    let keys: Vec<[u8; 32]> = (0..40).map(|seed| *public(seed).as_bytes()).collect();
    for _ in 0..2 {
        for key in &keys {
            assert_eq!(PublicKey::from_bytes(*key).unwrap().as_bytes(), key);
            // At the same slot, and no point of the curve: about half of these.
            let others = (0..64).map(|low| {
                let mut other = *key;
                other[31] ^= low;
                other[30] ^= 1;
                other
            });
            let refused = others
                .clone()
                .filter(|other| PublicKey::from_bytes(*other).is_err())
                .count();
            assert!((10..=54).contains(&refused), "{refused}");
            let again = others.filter(|other| PublicKey::from_bytes(*other).is_err()).count();
            assert_eq!(again, refused);
        }
    }
    for hex in SMALL_ORDER {
        assert!(PublicKey::from_bytes(bytes(hex)).is_err());
    }
}

#[test]
fn a_key_is_the_peer_that_libp2p_knows() {
    let keypair = secret(7).to_keypair();
    assert_eq!(public(7).peer_id(), keypair.public().to_peer_id());
    assert_eq!(PublicKey::from_peer_id(&keypair.public().to_peer_id()), Some(public(7)));
    assert_eq!(public(7).to_string(), keypair.public().to_peer_id().to_base58());
    assert_eq!(public(7).to_string().parse(), Ok(public(7)));
}

#[test]
fn a_peer_without_an_ed25519_key_has_no_key() {
    let hashed: PeerId = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N".parse().unwrap();
    assert_eq!(PublicKey::from_peer_id(&hashed), None);
    assert!(hashed.to_string().parse::<PublicKey>().is_err());
    assert!("1".repeat(1000).parse::<PublicKey>().is_err());
    let weak = [&[0x00, 0x24, 0x08, 0x01, 0x12, 0x20][..], &bytes(SMALL_ORDER[0])].concat();
    assert_eq!(PublicKey::from_peer_id(&PeerId::from_bytes(&weak).unwrap()), None);
}

#[test]
fn a_secret_is_stored_but_not_shown() {
    let key = secret(0xa7);
    assert_eq!(SecretKey::from_bytes(&key.to_bytes()).public(), key.public());
    let shown = format!("{key:?}");
    assert!(!shown.contains("a7a7") && !shown.contains("167, 167"), "{shown}");
}

#[test]
fn a_mesh_is_named_after_its_root() {
    let text = mesh().to_string();
    assert_eq!(text.len(), 57);
    assert_eq!(text.parse(), Ok(mesh()));
    assert_eq!(
        text.strip_prefix("mesh-").unwrap().get(..8),
        Some(mesh().short().as_str())
    );
    assert_ne!(MeshId::from_root(&public(ROOT)), MeshId::from_root(&public(ROOT + 1)));
    for wrong in [
        "",
        "mesh-",
        "mesh-a",
        &text[..56],
        &text.replace("mesh-", "mash-"),
        &format!("{text}a"),
    ] {
        assert!(wrong.parse::<MeshId>().is_err(), "{wrong:?}");
    }
    let stray = format!("{}b", &text[..56]);
    assert!(
        stray == text || stray.parse::<MeshId>().is_err(),
        "bits beyond the last byte are not ignored"
    );
}

#[test]
fn identities_are_text_in_json() {
    let json = serde_json::to_string(&(public(3), mesh())).unwrap();
    assert_eq!(json, format!("[\"{}\",\"{}\"]", public(3), mesh()));
    assert_eq!(
        serde_json::from_str::<(PublicKey, MeshId)>(&json).unwrap(),
        (public(3), mesh())
    );
    assert!(serde_json::from_str::<PublicKey>("\"12D3Koo\"").is_err());
}

proptest! {
    #[test]
    fn every_seed_makes_a_valid_key(seed in any::<[u8; 32]>(), text in prop::collection::vec(any::<u8>(), 0..64)) {
        let key = SecretKey::from_bytes(&seed);
        prop_assert_eq!(PublicKey::from_bytes(*key.public().as_bytes()), Ok(key.public()));
        let signature = key.sign("test", &text);
        prop_assert!(key.public().verify("test", &text, &signature));
        prop_assert!(!key.public().verify("tess", &text, &signature));
        prop_assert!(!public(ROOT).verify("test", &text, &signature));
    }
}

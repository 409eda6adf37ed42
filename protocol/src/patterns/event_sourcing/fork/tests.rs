use super::super::checkpoint::Origin;
use super::*;
use crate::ident::{MeshId, SecretKey};
use crate::merkle::{leaf_hash, node_hash};

fn owner_key() -> SecretKey {
    SecretKey::from_bytes(&[7; 32])
}

fn origin_of(stream: &str) -> Origin {
    Origin {
        mesh: MeshId::from_root(&SecretKey::from_bytes(&[1; 32]).public()),
        stream: stream.parse().unwrap(),
        owner: owner_key().public(),
    }
}

fn leaf(n: u8) -> Hash {
    leaf_hash(&[n])
}

fn signed(size: u64, root: Hash) -> String {
    of(&owner_key(), origin_of("shop.orders"), size, root)
}

fn of(key: &SecretKey, origin: Origin, size: u64, root: Hash) -> String {
    Checkpoint {
        origin,
        size,
        root,
        time_ms: 1_790_000_000_000 + size,
    }
    .sign(key)
}

/// Three records, of which the second was exchanged after two had been signed.
fn fork() -> Fork {
    let now = node_hash(&leaf(1), &leaf(9));
    Fork {
        earlier: signed(2, node_hash(&leaf(1), &leaf(2))),
        later: signed(3, node_hash(&now, &leaf(3))),
        root: now,
        hashes: vec![leaf(3)],
    }
}

#[test]
fn evidence_is_read_as_it_was_written_and_holds() {
    let read = Fork::from_text(&fork().to_text()).unwrap();
    assert_eq!(read, fork());
    let forked = read.verify().unwrap();
    assert_eq!((forked.earlier.size, forked.later.size), (2, 3));
    // As many records, and others.
    let one = Fork {
        earlier: signed(2, node_hash(&leaf(1), &leaf(2))),
        later: signed(2, node_hash(&leaf(1), &leaf(9))),
        root: node_hash(&leaf(1), &leaf(9)),
        hashes: Vec::new(),
    };
    Fork::from_text(&one.to_text()).unwrap().verify().unwrap();
}

#[test]
fn nobody_is_accused_falsely() {
    let honest = node_hash(&leaf(1), &leaf(2));
    let goes_on = Fork {
        later: signed(3, node_hash(&honest, &leaf(3))),
        root: honest,
        ..fork()
    };
    // What the later history is said to have been does not lead to it.
    let made_up = Fork {
        root: leaf(7),
        ..goes_on.clone()
    };
    let other = of(
        &owner_key(),
        origin_of("shop.bills"),
        3,
        node_hash(&fork().root, &leaf(3)),
    );
    let of_two = Fork { later: other, ..fork() };
    let forged = Fork {
        later: fork().later.replace("time 179", "time 178"),
        ..fork()
    };
    let turned = Fork {
        earlier: fork().later,
        later: fork().earlier,
        ..fork()
    };
    for wrong in [goes_on, made_up, of_two, forged, turned] {
        assert!(wrong.verify().is_err(), "{wrong:?}");
    }
}

#[test]
fn one_byte_changed_is_no_evidence() {
    let text = fork().to_text();
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        let Ok(changed) = String::from_utf8(bytes) else {
            continue;
        };
        let holds = Fork::from_text(&changed).is_ok_and(|fork| fork.verify().is_ok());
        assert!(!holds, "byte {at}");
    }
}

pub(crate) mod samples;

use super::checkpoint::{Checkpoint, Origin};
use super::proof::{Enclosed, Proof};
use super::*;
use crate::codec::Wire;
use crate::ident::{MeshId, SecretKey};
use crate::merkle::*;
use proptest::prelude::*;

/// The definition in RFC 6962, §2.1, word for word.
fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [only] => *only,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node_hash(&root(left), &root(right))
        }
    }
}

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|index| leaf_hash(&index.to_le_bytes())).collect()
}

fn of(leaves: &[Hash], ranges: &[(u64, u64)]) -> Vec<Hash> {
    let hash = |(start, end): &(u64, u64)| root(&leaves[*start as usize..*end as usize]);
    ranges.iter().map(hash).collect()
}

#[test]
fn every_leaf_of_every_small_tree_is_proved() {
    let leaves = leaves(70);
    for size in 1..=70 {
        let tree = &leaves[..size];
        for index in 0..size as u64 {
            let proof = of(tree, &inclusion_ranges(index, size as u64));
            let leaf = &tree[index as usize];
            assert_eq!(root_of_inclusion(leaf, index, size as u64, &proof), Ok(root(tree)));
            let elsewhere = (index + 1) % size as u64;
            if size > 1 {
                let other = root_of_inclusion(leaf, elsewhere, size as u64, &proof);
                assert_ne!(other, Ok(root(tree)), "{index} of {size}");
            }
            let longer = [&proof[..], &[[0; 32]]].concat();
            assert!(root_of_inclusion(leaf, index, size as u64, &longer).is_err());
        }
        assert!(root_of_inclusion(&tree[0], size as u64, size as u64, &[]).is_err());
    }
}

#[test]
fn every_beginning_of_every_small_tree_is_proved() {
    let leaves = leaves(40);
    for new in 0..=40_usize {
        for old in 0..=new {
            let proof = of(&leaves, &consistency_ranges(old as u64, new as u64));
            let (old_root, new_root) = (root(&leaves[..old]), root(&leaves[..new]));
            let check = |old_root: &Hash, new_root: &Hash, proof: &[Hash]| {
                check_consistency((old as u64, old_root), (new as u64, new_root), proof)
            };
            assert_eq!(check(&old_root, &new_root, &proof), Ok(()), "{old} of {new}");
            let other = leaf_hash(b"other");
            assert!(check(&other, &new_root, &proof).is_err(), "{old} of {new}");
            if old > 0 {
                assert!(check(&old_root, &other, &proof).is_err(), "{old} of {new}");
            }
            for at in 0..proof.len() {
                let mut changed = proof.clone();
                changed[at][7] ^= 1;
                assert!(check(&old_root, &new_root, &changed).is_err(), "{old} of {new}");
            }
        }
    }
}

proptest! {
    #[test]
    fn proofs_about_any_sizes_have_bounded_length(index: u64, size: u64, old: u64) {
        let size = size.max(1);
        prop_assert!(inclusion_ranges(index % size, size).len() <= 64);
        prop_assert!(consistency_ranges(old % size, size).len() <= 65);
    }
}

fn owner() -> SecretKey {
    SecretKey::from_bytes(&[3; 32])
}

fn checkpoint(size: u64, root: Hash) -> Checkpoint {
    Checkpoint {
        origin: Origin {
            mesh: MeshId::from_root(&SecretKey::from_bytes(&[1; 32]).public()),
            stream: "shop.orders".parse().unwrap(),
            owner: owner().public(),
        },
        size,
        root,
        time_ms: 1_790_000_000_000,
    }
}

#[test]
fn a_checkpoint_is_its_owners_and_has_one_form() {
    let checkpoint = checkpoint(12, [7; 32]);
    let text = checkpoint.sign(&owner());
    assert_eq!(Checkpoint::open(&text), Ok(checkpoint.clone()));
    assert!(Checkpoint::open(&checkpoint.sign(&SecretKey::from_bytes(&[4; 32]))).is_err());
    for (at, _) in text.char_indices() {
        let mut changed = text.clone().into_bytes();
        changed[at] ^= 1;
        let changed = String::from_utf8_lossy(&changed).into_owned();
        let opened = Checkpoint::open(&changed);
        assert!(opened.is_err(), "{changed}");
    }
    // Other signatures beside it, as witnesses give them, are passed over.
    assert_eq!(
        Checkpoint::open(&format!("{text}\u{2014} witness AAAA\n")),
        Ok(checkpoint)
    );
}

/// As other implementations of the form compute it.
#[test]
fn the_signature_is_that_of_a_signed_note() {
    let text = checkpoint(1, [0; 32]).sign(&owner());
    let (body, line) = text.split_once("\n\n").unwrap();
    let body = format!("{body}\n");
    let encoded = line.trim_end().rsplit(' ').next().unwrap();
    let bytes = data_encoding::BASE64.decode(encoded.as_bytes()).unwrap();
    assert_eq!(bytes.len(), 4 + 64);
    let key = ed25519_dalek::VerifyingKey::from_bytes(owner().public().as_bytes()).unwrap();
    let signature = ed25519_dalek::Signature::from_slice(&bytes[4..]).unwrap();
    assert!(key.verify_strict(body.as_bytes(), &signature).is_ok());
}

#[test]
fn members_that_have_the_same_history_cosign_it() {
    let known = checkpoint(2, leaf_hash(b"root"));
    let (one, other) = (SecretKey::from_bytes(&[5; 32]), SecretKey::from_bytes(&[6; 32]));
    let signed = known.sign(&owner());
    let line = known.cosign(&one, 1_790_000_000);
    let text = format!("{signed}{line}{}{line}", known.cosign(&other, 7));
    assert_eq!(Checkpoint::open(&text).unwrap(), known);
    assert!(text.len() < checkpoint::CHECKPOINT_BYTES_MAX);
    let cosigners = known.cosigners(&text);
    let found: Vec<_> = cosigners.iter().map(|one| (one.by, one.at_s)).collect();
    assert_eq!(found, [(one.public(), 1_790_000_000), (other.public(), 7)]);
    // Of another history it says nothing, and no byte of it can be changed.
    let longer = checkpoint(3, leaf_hash(b"root"));
    assert_eq!(longer.cosigners(&format!("{}{line}", longer.sign(&owner()))), []);
    for at in 0..line.len() - 1 {
        let mut bytes = line.clone().into_bytes();
        bytes[at] ^= 1;
        if let Ok(changed) = String::from_utf8(bytes) {
            assert_eq!(known.cosigners(&format!("{signed}{changed}")), [], "{at}");
        }
    }
    // The owner's own signature is no cosignature.
    assert_eq!(known.cosigners(&signed), []);
}

fn record(data: &[u8]) -> Record {
    Record {
        recorded_ms: 5,
        author: None,
        producer: None,
        event: Event::new("order.created", data),
        entry: None,
    }
}

fn proof() -> Proof {
    let records: Vec<Vec<u8>> = (0..9_u8).map(|n| record(&[n]).to_bytes()).collect();
    let leaves: Vec<Hash> = records.iter().map(|record| leaf_hash(record)).collect();
    Proof {
        enclosed: Enclosed {
            record: records[4].clone(),
            chain: crate::certificate::Chain(Vec::new()),
        },
        index: 4,
        hashes: of(&leaves, &inclusion_ranges(4, 9)),
        checkpoint: checkpoint(9, root(&leaves)).sign(&owner()),
    }
}

#[test]
fn a_proof_with_any_byte_changed_proves_nothing() {
    let text = proof().to_text();
    let proved = Proof::from_text(&text).unwrap().verify().unwrap();
    assert_eq!((proved.position, &proved.record.event.data[..]), (5, &[4][..]));
    for at in 0..text.len() {
        let mut changed = text.clone().into_bytes();
        changed[at] ^= 1;
        let Ok(changed) = String::from_utf8(changed) else {
            continue;
        };
        let verified = Proof::from_text(&changed).map_err(|error| error.to_string());
        let verified = verified.and_then(|proof| proof.verify().map_err(|error| error.to_string()));
        assert!(verified.is_err(), "{changed}");
    }
}

#[test]
fn the_largest_event_can_be_appended_recorded_and_proved() {
    let mut event = Event::new("k", vec![b'x'; EVENT_DATA_BYTES_MAX]);
    event.extensions = (0..7).map(|n| (format!("e{n}"), "v".repeat(1100))).collect();
    let append = Append {
        events: vec![event.clone()],
        ..Append::default()
    };
    StreamRequest::Append(append).to_checked_bytes().unwrap();
    let record = Record { event, ..record(b"") };
    let mut proof = proof();
    proof.enclosed.record = record.to_checked_bytes().unwrap();
    proof.hashes = vec![[1; 32]; 64];
    StreamReply::Proof(proof.clone()).to_checked_bytes().unwrap();
    assert_eq!(Proof::from_text(&proof.to_text()), Ok(proof.clone()));
    let one = Positioned {
        position: u64::MAX,
        record: proof.enclosed.record,
    };
    ReadReply::Records(vec![one]).to_checked_bytes().unwrap();
}

#[test]
fn events_that_cannot_be_are_refused() {
    let good = Event::new("order.created", "x");
    let append = |event: Event| {
        let append = Append {
            events: vec![event],
            ..Append::default()
        };
        append.check()
    };
    assert_eq!(append(good.clone()), Ok(()));
    let long = || "x".repeat(600);
    for wrong in [
        Event::new("", "x"),
        Event::new(long(), "x"),
        Event::new("a\nb", "x"),
        Event::new("k", vec![0; EVENT_DATA_BYTES_MAX + 1]),
        Event {
            id: Some(String::new()),
            ..good.clone()
        },
        Event {
            subject: Some(long()),
            ..good.clone()
        },
        Event {
            tags: vec![String::new()],
            ..good.clone()
        },
        Event {
            tags: vec!["a".into(), "a".into()],
            ..good.clone()
        },
        Event {
            tags: (0..10_000).map(|n| n.to_string()).collect(),
            ..good.clone()
        },
        Event {
            extensions: vec![("Bad".into(), "v".into())],
            ..good.clone()
        },
        Event {
            extensions: (0..9).map(|n| (format!("e{n}"), "v".repeat(1000))).collect(),
            ..good
        },
    ] {
        assert!(append(wrong.clone()).is_err(), "{wrong:?}");
    }
    assert!(Append::default().check().is_err());
}

#[test]
fn a_query_means_any_item_and_all_of_its_tags() {
    let event = Event {
        tags: vec!["customer=1".into(), "region=eu".into()],
        ..Event::new("order.created", "")
    };
    let item = |types: &[&str], tags: &[&str]| QueryItem {
        types: types.iter().map(ToString::to_string).collect(),
        tags: tags.iter().map(ToString::to_string).collect(),
    };
    let means = |items: &[QueryItem]| Query { items: items.to_vec() }.matches(&event);
    assert!(means(&[]));
    assert!(means(&[item(&[], &[])]));
    assert!(means(&[item(&["order.created", "order.paid"], &["region=eu"])]));
    assert!(means(&[
        item(&["order.paid"], &[]),
        item(&[], &["customer=1", "region=eu"])
    ]));
    assert!(!means(&[item(&["order.paid"], &["region=eu"])]));
    assert!(!means(&[item(&[], &["customer=1", "region=us"])]));
}

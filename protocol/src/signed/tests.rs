use super::*;
use crate::capability::Capability;
use crate::certificate::Certificate;
use crate::revocation::Revocation;
use crate::testing::*;

fn signed() -> Signed<Revocation> {
    let revocation = Revocation {
        mesh: mesh(),
        subject: public(9),
        reason: String::from("lost"),
        revoked_at_ms: NOW_MS,
        nonce: [3; 16],
    };
    Signed::sign(&revocation, &secret(ROOT)).unwrap()
}

#[test]
fn what_was_signed_opens() {
    let signed = signed();
    assert_eq!(signed.open().unwrap(), signed.peek().unwrap());
    assert_eq!(signed.signer(), public(ROOT));
    let read = Signed::<Revocation>::from_bytes(&signed.to_bytes()).unwrap();
    assert_eq!((read.id(), read.open().unwrap()), (signed.id(), signed.open().unwrap()));
}

#[test]
fn every_flipped_bit_is_detected() {
    let bytes = signed().to_bytes();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            let opened = Signed::<Revocation>::from_bytes(&changed).map(|signed| signed.open());
            assert!(!matches!(opened, Ok(Ok(_))), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn a_signature_counts_in_its_domain_only() {
    let signed = signed();
    let moved = |domain: &str| signed.signer().verify(domain, signed.payload(), &signed.signature);
    assert!(moved(Revocation::DOMAIN));
    assert!(!moved(Certificate::DOMAIN) && !moved(Capability::DOMAIN) && !moved("") && !moved("revocation\0"));
    let other: Signed<Certificate> = Signed {
        payload: signed.payload.clone(),
        signer: signed.signer,
        signature: signed.signature,
        kind: PhantomData,
    };
    assert_eq!(
        other.open().unwrap_err(),
        TrustError::BadSignature { what: "certificate" }
    );
}

#[test]
fn a_payload_that_is_not_allowed_is_not_signed() {
    let mut revocation = signed().peek().unwrap();
    revocation.reason = "x".repeat(257);
    let error = Signed::sign(&revocation, &secret(ROOT)).unwrap_err();
    assert_eq!(
        error,
        DecodeError::TooLarge {
            what: "reason",
            limit: 256,
            got: 257
        }
    );
}

#[test]
fn an_oversized_payload_is_refused_before_it_is_copied() {
    let mut signed = signed();
    signed.payload = vec![0; Revocation::BYTES_MAX + 1].into();
    let error = crate::codec::decode::<Signed<Revocation>>(&signed.to_bytes(), 4096, "test").unwrap_err();
    assert_eq!(
        error,
        DecodeError::TooLarge {
            what: "revocation",
            limit: 512,
            got: 513
        }
    );
}

#[test]
fn a_signature_with_a_scalar_beyond_the_group_order_is_refused() {
    // S + L verifies wherever the range of S is not checked; it would be a second signature of the same thing.
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut signed = signed();
    let mut carry = 0u16;
    for (byte, order) in signed.signature[32..].iter_mut().zip(ORDER) {
        carry += u16::from(*byte) + u16::from(order);
        *byte = carry as u8;
        carry >>= 8;
    }
    assert_eq!(carry, 0, "the sum still fits");
    assert_eq!(
        signed.open().unwrap_err(),
        TrustError::BadSignature { what: "revocation" }
    );
}

#[test]
fn an_envelope_has_exactly_three_parts() {
    let bytes = signed().to_bytes();
    assert_eq!(bytes[0], 0x83);
    let four = [&[0x84], &bytes[1..], &[0x00]].concat();
    let error = Signed::<Revocation>::from_bytes(&four).unwrap_err().to_string();
    assert!(error.contains("other than three parts"), "{error}");
}

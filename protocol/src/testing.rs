//! What the tests of several modules need: fixed keys, a small mesh, sample values.

use crate::capability::{Grant, Verb, Verbs};
use crate::certificate::{CertificateRequest, Chain};
use crate::ident::{MeshId, PublicKey, SecretKey};
use crate::record::{Announcement, NodeRecord};
use crate::signed::{Payload, Signed};

/// The time at which the sample values are made.
pub(crate) const NOW_MS: u64 = 1_800_000_000_000;
/// One day.
pub(crate) const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A fixed secret key per number.
pub(crate) fn secret(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[number; 32])
}

/// Its public half.
pub(crate) fn public(number: u8) -> PublicKey {
    secret(number).public()
}

/// Nobody is revoked.
pub(crate) fn nobody(_: &PublicKey) -> bool {
    false
}

/// Grants in text form.
pub(crate) fn grants(texts: &[&str]) -> Vec<Grant> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Strings from literals.
pub(crate) fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// A request for thirty days from now.
pub(crate) fn request(subject: u8, roles: &[&str], texts: &[&str]) -> CertificateRequest {
    CertificateRequest {
        subject: public(subject),
        name: format!("node-{subject}"),
        roles: strings(roles),
        labels: vec![(String::from("zone"), String::from("eu"))],
        grants: grants(texts),
        not_before_ms: NOW_MS,
        not_after_ms: NOW_MS + 30 * DAY_MS,
    }
}

/// The number of the root's key.
pub(crate) const ROOT: u8 = 1;
/// The number of the founder's key.
pub(crate) const FOUNDER: u8 = 2;

/// The sample mesh.
pub(crate) fn mesh() -> MeshId {
    MeshId::from_root(&public(ROOT))
}

/// A chain of one link: the founder, who may do and hand on everything.
pub(crate) fn founder() -> Chain {
    let mut request = request(FOUNDER, &["founder"], &[]);
    request.grants = vec![Grant::everything(7)];
    Chain::default().issue(&secret(ROOT), request, [1; 16], NOW_MS).unwrap()
}

/// A chain of two links below the founder.
pub(crate) fn member(number: u8, roles: &[&str], texts: &[&str]) -> Chain {
    founder()
        .issue(&secret(FOUNDER), request(number, roles, texts), [number; 16], NOW_MS)
        .unwrap()
}

/// Signs a payload without asking whether it makes sense, as an attacker would.
pub(crate) fn forge<T: Payload>(value: &T, by: u8) -> Signed<T> {
    Signed::sign(value, &secret(by)).unwrap()
}

/// A record of a member.
pub(crate) fn record(number: u8, chain: Chain) -> NodeRecord {
    NodeRecord {
        mesh: mesh(),
        chain,
        name: format!("node-{number}"),
        addresses: vec!["/ip4/192.0.2.1/udp/4001/quic-v1".parse().unwrap()],
        agent: String::from("weft"),
        version: String::from("0.1.0"),
        seq: NOW_MS,
        issued_at_ms: NOW_MS,
        ttl_ms: DAY_MS,
        announcements: vec![Announcement {
            key: String::from("pub_sub"),
            value: vec![1, 2, 3],
        }],
    }
}

/// Every verb, for loops.
pub(crate) fn verbs() -> impl Iterator<Item = Verb> {
    Verbs::ALL.iter()
}

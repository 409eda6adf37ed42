//! Who is who: the keys of nodes and the identity of a mesh.
//!
//! A node is its Ed25519 key; its text form is the libp2p peer identity, so people see one name for one thing. A mesh is the hash of
//! its root key. A [`PublicKey`] is a point of the curve, in its one canonical encoding, and not of small order: a key that could
//! verify more than one message's signature never gets that far.

mod key;
mod mesh_id;
#[cfg(test)]
mod tests;

pub use key::{PublicKey, SecretKey};
pub use libp2p_identity::PeerId;
pub use mesh_id::MeshId;

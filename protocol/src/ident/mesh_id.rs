//! The identity of a mesh.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::PublicKey;
use crate::error::{DecodeError, at_most};
use crate::text::{base32, from_base32, serde_as_text};

const PREFIX: &str = "mesh-";

/// The identity of a mesh: the hash of its root key, so that a mesh cannot be claimed without that key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct MeshId(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

impl MeshId {
    /// The mesh with this root key.
    pub fn from_root(root: &PublicKey) -> Self {
        Self(
            Sha256::new()
                .chain_update(b"weft-mesh-v1")
                .chain_update(root.as_bytes())
                .finalize()
                .into(),
        )
    }

    /// An identity from its 32 bytes; any are one, for they are a hash.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Eight characters to tell meshes apart on a screen; not unique enough to decide by.
    pub fn short(&self) -> String {
        let mut text = base32(&self.0);
        text.truncate(8);
        text
    }
}

impl fmt::Display for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", base32(&self.0))
    }
}

impl fmt::Debug for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshId({})", self.short())
    }
}

impl FromStr for MeshId {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        at_most("mesh id", text.len(), 64)?;
        let body = text
            .strip_prefix(PREFIX)
            .ok_or_else(|| DecodeError::malformed("mesh id", format!("it does not start with {PREFIX:?}")))?;
        let bytes = from_base32("mesh id", body)?;
        let bytes = bytes
            .try_into()
            .map_err(|_| DecodeError::malformed("mesh id", "it is not 32 bytes long"))?;
        Ok(Self(bytes))
    }
}

serde_as_text!(MeshId);

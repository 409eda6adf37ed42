//! A proof that a record is in a stream, at its place: one text that a stranger checks with nothing else, in the form of C2SP's `tlog-proof`.

use data_encoding::BASE64;
use minicbor::{Decode, Encode};

use super::checkpoint::{CHECKPOINT_BYTES_MAX, Checkpoint};
use super::{RECORD_BYTES_MAX, Record};
use crate::certificate::{Chain, Membership};
use crate::codec::Wire;
use crate::error::{DecodeError, TrustError, at_most};
use crate::ident::MeshId;
use crate::limits::{CHAIN_BYTES_MAX, CLOCK_SKEW_MS_MAX};
use crate::merkle::{Hash, PROOF_HASHES_MAX, leaf_hash, root_of_inclusion};

const HEAD: &str = "c2sp.org/tlog-proof@v1";
const WHAT: &str = "proof";
/// The text of a proof.
pub const PROOF_BYTES_MAX: usize = (Enclosed::BYTES_MAX / 3 + 1) * 4 + PROOF_HASHES_MAX * 64 + CHECKPOINT_BYTES_MAX;

/// What a proof carries besides hashes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Enclosed {
    /// The record, byte for byte.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub record: Vec<u8>,
    /// The certificates of the stream's owner; empty in an open mesh.
    #[n(1)]
    pub chain: Chain,
}

impl Wire for Enclosed {
    const WHAT: &'static str = "proof";
    const BYTES_MAX: usize = RECORD_BYTES_MAX + CHAIN_BYTES_MAX + 64;

    fn check(&self) -> Result<(), DecodeError> {
        self.chain.check()?;
        at_most("record", self.record.len(), RECORD_BYTES_MAX)
    }
}

/// A proof, not yet believed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Proof {
    /// The record and its owner's certificates.
    #[n(0)]
    pub enclosed: Enclosed,
    /// The leaf's index; a record's position less one.
    #[n(1)]
    pub index: u64,
    /// From the leaf to the root.
    #[cbor(n(2), with = "hashes")]
    pub hashes: Vec<Hash>,
    /// The signed checkpoint.
    #[n(3)]
    pub checkpoint: String,
}

/// Hashes as one string of bytes.
pub(super) mod hashes {
    use minicbor::decode::{Decoder, Error};
    use minicbor::encode::{self, Encoder, Write};

    use super::{Hash, PROOF_HASHES_MAX};

    pub(crate) fn decode<Ctx>(decoder: &mut Decoder<'_>, _: &mut Ctx) -> Result<Vec<Hash>, Error> {
        let (hashes, rest) = decoder.bytes()?.as_chunks::<32>();
        if !rest.is_empty() || hashes.len() > PROOF_HASHES_MAX {
            return Err(Error::message("hashes of a proof have 32 bytes, and are not too many"));
        }
        Ok(hashes.to_vec())
    }

    pub(crate) fn encode<Ctx, W: Write>(
        hashes: &[Hash],
        encoder: &mut Encoder<W>,
        _: &mut Ctx,
    ) -> Result<(), encode::Error<W::Error>> {
        encoder.bytes(hashes.as_flattened())?.ok()
    }
}

/// What a good proof says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proved {
    /// The record.
    pub record: Record,
    /// Where it stands, from 1.
    pub position: u64,
    /// In which history.
    pub checkpoint: Checkpoint,
    /// Who the owner is in the mesh; none in an open one.
    pub owner: Option<Membership>,
}

impl Proof {
    pub(super) fn check(&self) -> Result<(), DecodeError> {
        at_most("checkpoint", self.checkpoint.len(), CHECKPOINT_BYTES_MAX)?;
        self.enclosed.check()
    }

    /// The text.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{HEAD}\nextra {}\nindex {}\n",
            BASE64.encode(&self.enclosed.to_bytes()),
            self.index
        );
        for hash in &self.hashes {
            text.push_str(&BASE64.encode(hash));
            text.push('\n');
        }
        text.push('\n');
        text.push_str(&self.checkpoint);
        text
    }

    /// Reads the text.
    ///
    /// # Errors
    /// It is no proof.
    pub fn from_text(text: &str) -> Result<Self, DecodeError> {
        at_most(WHAT, text.len(), PROOF_BYTES_MAX)?;
        let malformed = |reason: &str| DecodeError::malformed(WHAT, reason);
        let (head, checkpoint) = text
            .split_once("\n\n")
            .ok_or_else(|| malformed("it has no checkpoint"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(HEAD) {
            return Err(malformed("it does not begin with c2sp.org/tlog-proof@v1"));
        }
        let extra = lines.next().and_then(|line| line.strip_prefix("extra "));
        let extra = extra.and_then(|encoded| BASE64.decode(encoded.as_bytes()).ok());
        let extra = extra.ok_or_else(|| malformed("it does not enclose the record"))?;
        let index = lines.next().and_then(|line| line.strip_prefix("index "));
        let index = index.and_then(|text| text.parse().ok().filter(|index: &u64| index.to_string() == text));
        let index = index.ok_or_else(|| malformed("it has no index"))?;
        let mut hashes = Vec::new();
        for line in lines {
            at_most("hashes of a proof", hashes.len() + 1, PROOF_HASHES_MAX)?;
            let hash = BASE64
                .decode(line.as_bytes())
                .ok()
                .and_then(|hash| hash.try_into().ok());
            hashes.push(hash.ok_or_else(|| malformed("a line is no hash"))?);
        }
        Ok(Self {
            enclosed: Enclosed::from_bytes(&extra)?,
            index,
            hashes,
            checkpoint: checkpoint.to_owned(),
        })
    }

    /// Verifies it by itself: the owner's signature, the way from the record to the signed root and, where it carries certificates, that the
    /// owner was a member of the mesh it names. What was revoked since is not known to it.
    ///
    /// # Errors
    /// What does not hold.
    pub fn verify(&self) -> Result<Proved, TrustError> {
        let checkpoint = Checkpoint::open(&self.checkpoint)?;
        let leaf = leaf_hash(&self.enclosed.record);
        let root = root_of_inclusion(&leaf, self.index, checkpoint.size, &self.hashes)?;
        if root != checkpoint.root {
            let reason = "the record is not at this place of the signed history";
            return Err(DecodeError::invalid(WHAT, reason).into());
        }
        let record = Record::from_bytes(&self.enclosed.record)?;
        let owner = self.owner(&checkpoint)?;
        Ok(Proved {
            record,
            position: self.index + 1,
            checkpoint,
            owner,
        })
    }

    fn owner(&self, checkpoint: &Checkpoint) -> Result<Option<Membership>, TrustError> {
        let chain = &self.enclosed.chain;
        let Some(root) = chain.root() else {
            return Ok(None);
        };
        let (expected, got) = (checkpoint.origin.mesh, MeshId::from_root(&root));
        if got != expected {
            return Err(TrustError::WrongMesh { expected, got });
        }
        let member = chain.verify(&root, &expected, checkpoint.time_ms, CLOCK_SKEW_MS_MAX, &|_| false)?;
        if member.key != checkpoint.origin.owner {
            return Err(TrustError::not_authorised(
                checkpoint.origin.owner,
                "the proof carries the certificates of another node",
            ));
        }
        Ok(Some(member))
    }
}

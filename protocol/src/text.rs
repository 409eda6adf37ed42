//! Text that people copy: a prefix, base32, and a checksum that notices a wrong character.

use data_encoding::BASE32_NOPAD;
use sha2::{Digest as _, Sha256};

use crate::error::{DecodeError, at_most};

const CHECKSUM_BYTES: usize = 4;

/// Lower-case base32 without padding.
pub fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

/// Reads base32 without padding in either case.
pub fn from_base32(what: &'static str, text: &str) -> Result<Vec<u8>, DecodeError> {
    BASE32_NOPAD
        .decode(text.to_ascii_uppercase().as_bytes())
        .map_err(|error| DecodeError::malformed(what, format!("not base32: {error}")))
}

/// `prefix` + base32 of `bytes` and their checksum.
pub fn encode(prefix: &str, bytes: &[u8]) -> String {
    let mut whole = bytes.to_vec();
    whole.extend_from_slice(&checksum(prefix, bytes));
    format!("{prefix}{}", base32(&whole))
}

/// Reads what [`encode`] wrote; white space anywhere and upper case are tolerated, as they come from copying.
pub fn decode(prefix: &str, text: &str, bytes_max: usize, what: &'static str) -> Result<Vec<u8>, DecodeError> {
    // Twice the binary size covers base32 (8/5) and the line breaks of a mail.
    at_most(what, text.len(), bytes_max.saturating_mul(2).saturating_add(64))?;
    let compact: String = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let body = compact
        .strip_prefix(prefix)
        .ok_or_else(|| DecodeError::malformed(what, format!("it does not start with {prefix:?}")))?;
    let mut bytes = from_base32(what, body)?;
    let Some(split) = bytes.len().checked_sub(CHECKSUM_BYTES) else {
        return Err(DecodeError::malformed(what, "it is too short"));
    };
    let given = bytes.split_off(split);
    if given != checksum(prefix, &bytes) {
        return Err(DecodeError::malformed(
            what,
            "its checksum is wrong, a character was lost or changed",
        ));
    }
    at_most(what, bytes.len(), bytes_max)?;
    Ok(bytes)
}

fn checksum(prefix: &str, bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Sha256::new()
        .chain_update(prefix.as_bytes())
        .chain_update(bytes)
        .finalize();
    let mut short = [0; CHECKSUM_BYTES];
    short.copy_from_slice(&digest[..CHECKSUM_BYTES]);
    short
}

/// Implements `serde` as text through `Display` and `FromStr`.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_text;

/// `serde` through `Display`, for types of other crates.
pub(crate) fn display<T: std::fmt::Display, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// `serde` of sixteen bytes as hex.
pub(crate) mod hex16 {
    use data_encoding::HEXLOWER;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8; 16], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 16], D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?;
        bytes.try_into().map_err(|_| D::Error::custom("not sixteen bytes"))
    }
}

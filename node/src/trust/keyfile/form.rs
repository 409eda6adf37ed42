//! The text of a key file, plain and encrypted.

use std::{
    io::{Read, Write},
    iter,
};

use age::{DecryptError, Decryptor, Encryptor, scrypt, secrecy::SecretString};
use data_encoding::{BASE32_NOPAD, BASE64};
use sha2::{Digest as _, Sha256};
use weft_protocol::ident::SecretKey;
use zeroize::{Zeroize as _, Zeroizing};

use super::{FILE_BYTES_MAX, KeyFileError, Passphrase};

const TYPE: &str = "weft-ed25519-secret";
const VERSION: &str = "1";

const KEY_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;
const CODED_BYTES: usize = KEY_BYTES + CHECKSUM_BYTES;
/// Base32 of 36 bytes.
const CODED_CHARS: usize = 58;

/// scrypt with N = 2^17: 128 MiB and some tenths of a second, bearable on a small machine and at every start of a node.
const WORK_FACTOR: u8 = if cfg!(test) { 2 } else { 17 };

/// What somebody else wrote may cost at most 1 GiB to open.
const WORK_FACTOR_MAX: u8 = 20;

const AGE_MAGIC: &[u8] = b"age-encryption.org/v1";
const ARMOR_BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const ARMOR_END: &str = "-----END AGE ENCRYPTED FILE-----";
const ARMOR_COLUMNS: usize = 64;

pub(super) fn is_encrypted(bytes: &[u8]) -> bool {
    bytes.starts_with(AGE_MAGIC) || bytes.trim_ascii_start().starts_with(ARMOR_BEGIN.as_bytes())
}

pub(super) fn write(key: &SecretKey, passphrase: Option<&Passphrase>) -> Result<Zeroizing<String>, KeyFileError> {
    let line = write_line(key);
    match passphrase {
        None => Ok(line),
        Some(passphrase) => encrypt(line.as_bytes(), passphrase)
            .map(|bytes| Zeroizing::new(armor(&bytes)))
            .map_err(|reason| KeyFileError::Encrypt {
                reason: reason.to_string(),
            }),
    }
}

pub(super) fn read(bytes: &[u8], passphrase: Option<&Passphrase>, what: &str) -> Result<SecretKey, KeyFileError> {
    if !is_encrypted(bytes) {
        return read_line(bytes, what);
    }
    let Some(passphrase) = passphrase else {
        return Err(KeyFileError::PassphraseNeeded { what: what.into() });
    };
    if bytes.starts_with(AGE_MAGIC) {
        return read_line(&decrypt(bytes, passphrase, what)?, what);
    }
    let binary = dearmor(bytes).map_err(|reason| damaged(what, reason))?;
    read_line(&decrypt(&binary, passphrase, what)?, what)
}

fn damaged(what: &str, reason: impl Into<String>) -> KeyFileError {
    KeyFileError::Damaged {
        what: what.into(),
        reason: reason.into(),
    }
}

fn checksum(key: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Sha256::new()
        .chain_update(TYPE)
        .chain_update([0])
        .chain_update(key)
        .finalize();
    let mut head = [0; CHECKSUM_BYTES];
    head.copy_from_slice(&digest[..CHECKSUM_BYTES]);
    head
}

fn write_line(key: &SecretKey) -> Zeroizing<String> {
    let key = key.to_bytes();
    let mut coded = Zeroizing::new([0; CODED_BYTES]);
    coded[..KEY_BYTES].copy_from_slice(key.as_ref());
    coded[KEY_BYTES..].copy_from_slice(&checksum(key.as_ref()));
    let mut text = Zeroizing::new([0; CODED_CHARS]);
    BASE32_NOPAD.encode_mut(coded.as_ref(), text.as_mut());
    text.make_ascii_lowercase();
    let mut line = Zeroizing::new(String::with_capacity(128));
    for part in [TYPE, " ", VERSION, " "] {
        line.push_str(part);
    }
    line.extend(text.iter().map(|byte| char::from(*byte)));
    line.push('\n');
    line
}

fn read_line(bytes: &[u8], what: &str) -> Result<SecretKey, KeyFileError> {
    let not_a_key = || KeyFileError::NotAKey { what: what.into() };
    let text = std::str::from_utf8(bytes).map_err(|_| not_a_key())?;
    let mut words = text.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    if first != TYPE {
        let other = first
            .strip_prefix("weft-")
            .and_then(|rest| rest.strip_suffix("-secret"));
        return Err(
            match other.filter(|name| name.len() <= 32 && name.bytes().all(|b| b.is_ascii_alphanumeric())) {
                Some(found) => KeyFileError::WrongType {
                    what: what.into(),
                    found: found.into(),
                },
                None => not_a_key(),
            },
        );
    }
    let version = words.next().unwrap_or_default();
    if version != VERSION {
        let version = version.chars().take(16).filter(|c| !c.is_control()).collect();
        return Err(KeyFileError::Version {
            what: what.into(),
            version,
        });
    }
    let text = words.next().unwrap_or_default();
    if words.next().is_some() {
        return Err(damaged(what, "there is something after the key"));
    }
    decode(text).map_err(|reason| damaged(what, reason))
}

fn decode(text: &str) -> Result<SecretKey, String> {
    if text.len() != CODED_CHARS {
        return Err(format!(
            "the key has {} characters instead of {CODED_CHARS}",
            text.len()
        ));
    }
    let mut upper = Zeroizing::new([0; CODED_CHARS]);
    upper.copy_from_slice(text.as_bytes());
    upper.make_ascii_uppercase();
    let mut coded = Zeroizing::new([0; CODED_BYTES]);
    // The decoder's own words would name characters of the key.
    BASE32_NOPAD
        .decode_mut(upper.as_ref(), coded.as_mut())
        .map_err(|_| "the key is not base32".to_owned())?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    key.copy_from_slice(&coded[..KEY_BYTES]);
    if checksum(key.as_ref()) != coded[KEY_BYTES..] {
        return Err("the checksum is wrong, a character was lost or changed".into());
    }
    Ok(SecretKey::from_bytes(&key))
}

fn encrypt(plain: &[u8], passphrase: &Passphrase) -> Result<Vec<u8>, age::EncryptError> {
    let mut recipient = scrypt::Recipient::new(secret(passphrase));
    recipient.set_work_factor(WORK_FACTOR);
    let encryptor = Encryptor::with_recipients(iter::once(&recipient as &dyn age::Recipient))?;
    let mut sealed = Vec::new();
    let mut writer = encryptor.wrap_output(&mut sealed)?;
    writer.write_all(plain)?;
    writer.finish()?;
    Ok(sealed)
}

fn decrypt(sealed: &[u8], passphrase: &Passphrase, what: &str) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let failed = |error: DecryptError| match error {
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => {
            KeyFileError::WrongPassphrase { what: what.into() }
        }
        DecryptError::NoMatchingKeys => damaged(what, "it is encrypted to a key, not by a passphrase"),
        DecryptError::ExcessiveWork { .. } => damaged(what, "opening it would take more work than is sane"),
        DecryptError::UnknownFormat => damaged(what, "it is of an unknown version of the age format"),
        _ => damaged(what, "its encryption does not check out"),
    };
    let decryptor = Decryptor::new_buffered(sealed).map_err(failed)?;
    let mut identity = scrypt::Identity::new(secret(passphrase));
    identity.set_max_work_factor(WORK_FACTOR_MAX);
    let reader = decryptor
        .decrypt(iter::once(&identity as &dyn age::Identity))
        .map_err(failed)?;
    let room = usize::try_from(FILE_BYTES_MAX).unwrap_or_default();
    let mut plain = Zeroizing::new(Vec::with_capacity(room));
    reader
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut plain)
        .map_err(|_| damaged(what, "its encryption does not check out"))?;
    Ok(plain)
}

fn secret(passphrase: &Passphrase) -> SecretString {
    SecretString::from(passphrase.expose().to_owned())
}

fn armor(bytes: &[u8]) -> String {
    let mut coded = BASE64.encode(bytes);
    let mut text = format!("{ARMOR_BEGIN}\n");
    let mut rest = coded.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(ARMOR_COLUMNS));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str(ARMOR_END);
    text.push('\n');
    coded.zeroize();
    text
}

/// Lines may be of any length and end in CR LF: mail programs do that.
fn dearmor(bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
    let body = text
        .trim_ascii()
        .strip_prefix(ARMOR_BEGIN)
        .and_then(|rest| rest.strip_suffix(ARMOR_END));
    let body: String = body
        .ok_or("its last line is missing")?
        .split_ascii_whitespace()
        .collect();
    BASE64.decode(body.as_bytes()).map_err(|_| "it is not base64")
}

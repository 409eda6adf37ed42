use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
};

use super::*;

const SEED: [u8; 32] = [9; 32];
const LINE: &str = "weft-ed25519-secret 1 beeqscijbeeqscijbeeqscijbeeqscijbeeqscijbeeqscijbeewrqqini\n";

fn key() -> SecretKey {
    SecretKey::from_bytes(&SEED)
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.to_owned()).unwrap()
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(NODE_KEY_FILE);
    (dir, path)
}

fn write(path: &Path, bytes: &[u8], mode: u32) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn same(key: &SecretKey) -> bool {
    *key.to_bytes() == SEED
}

#[test]
fn the_first_start_makes_a_key_and_the_next_finds_it() {
    let (_dir, path) = place();
    let mut calls = 0;
    let mut entropy = |room: &mut [u8]| {
        calls += 1;
        room.copy_from_slice(&SEED);
    };
    let (made, outcome) = load_or_create(&path, None, &mut entropy).unwrap();
    assert!(same(&made) && outcome == Outcome::Created);
    let (found, outcome) = load_or_create(&path, None, &mut entropy).unwrap();
    assert!(same(&found) && outcome == Outcome::Loaded);
    assert_eq!(calls, 1);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn the_plain_form_is_fixed() {
    assert_eq!(export(&key(), None).unwrap().as_str(), LINE);
    assert!(same(&import(LINE.as_bytes(), None, "text").unwrap()));
    assert!(same(
        &import(
            LINE.to_uppercase()
                .replace("WEFT-ED25519-SECRET", "weft-ed25519-secret")
                .as_bytes(),
            None,
            "text"
        )
        .unwrap()
    ));
    assert!(same(
        &import(LINE.replace('\n', "\r\n").as_bytes(), None, "text").unwrap()
    ));
}

#[test]
fn creating_never_replaces() {
    let (_dir, path) = place();
    create(&path, &key(), None).unwrap();
    let error = create(&path, &SecretKey::from_bytes(&[1; 32]), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(same(&load(&path, None).unwrap()));
}

#[test]
fn a_damaged_file_is_an_error_and_stays_as_it_is() {
    let (_dir, path) = place();
    let good = LINE.trim_end().as_bytes();
    let mut damaged: Vec<Vec<u8>> = (0..good.len()).map(|n| good[..n].to_vec()).collect();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.to_vec();
            bytes[at] ^= 1 << bit;
            damaged.push(bytes);
        }
    }
    damaged.extend([
        vec![0; 100],
        vec![0xff; 32],
        [good, b" x"].concat(),
        [good, b"\n", good].concat(),
        vec![b'a'; 9000],
    ]);
    let mut entropy = |_: &mut [u8]| panic!("a damaged key must not be replaced by a new one");
    for bytes in damaged {
        write(&path, &bytes, 0o600);
        match load_or_create(&path, None, &mut entropy) {
            // Case and the sort of white space carry nothing.
            Ok((found, _)) => assert!(same(&found), "another key from {:?}", String::from_utf8_lossy(&bytes)),
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Conflict),
                "{error}"
            ),
        }
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn errors_name_what_is_wrong() {
    let error = |text: &str| import(text.as_bytes(), None, "/d/node.key").unwrap_err().to_string();
    assert_eq!(
        error("weft-rsa-secret 1 abc"),
        "/d/node.key holds a key of type rsa, not ed25519"
    );
    assert_eq!(
        error("weft-ed25519-secret 2 abc"),
        "/d/node.key is a key file of version 2, but this program knows version 1 only"
    );
    assert_eq!(
        error("weft-ed25519-secret 1 abc"),
        "/d/node.key is damaged: the key has 3 characters instead of 58"
    );
    assert!(error("-----BEGIN OPENSSH PRIVATE KEY-----").contains("is not a weft key"));
    assert!(error("").contains("is not a weft key"));
    // No part of the key may reach a log.
    let broken = LINE.replace("beewr", "bee1r");
    assert_eq!(error(&broken), "/d/node.key is damaged: the key is not base32");
}

#[test]
fn files_that_others_can_read_or_that_are_no_files_are_refused() {
    let (dir, path) = place();
    let mut entropy = |_: &mut [u8]| panic!("must be refused, not made anew");
    for mode in [0o640, 0o644, 0o604, 0o666] {
        write(&path, LINE.as_bytes(), mode);
        let error = load_or_create(&path, None, &mut entropy).unwrap_err();
        assert_eq!(
            (error.kind(), error.hint()),
            (ErrorKind::Denied, Some(format!("chmod 600 {}", path.display())))
        );
    }
    write(&path, LINE.as_bytes(), 0o600);
    let link = dir.path().join("link.key");
    symlink(&path, &link).unwrap();
    assert!(matches!(
        load_or_create(&link, None, &mut entropy).unwrap_err(),
        KeyFileError::File(DataDirError::Symlink { .. })
    ));
    let dangling = dir.path().join("dangling.key");
    symlink("/none", &dangling).unwrap();
    assert!(load_or_create(&dangling, None, &mut entropy).is_err());
    assert!(load_or_create(dir.path(), None, &mut entropy).is_err());
}

#[test]
fn a_passphrase_protects_and_opens() {
    let (_dir, path) = place();
    let (right, wrong) = (passphrase("right"), passphrase("wrong"));
    create(&path, &key(), Some(&right)).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n")
            && text.ends_with("-----END AGE ENCRYPTED FILE-----\n")
    );
    assert!(text.lines().all(|line| line.len() <= 64));
    assert!(is_encrypted(&path).unwrap());
    assert!(same(&load(&path, Some(&right)).unwrap()));
    assert!(matches!(
        load(&path, Some(&wrong)).unwrap_err(),
        KeyFileError::WrongPassphrase { .. }
    ));
    assert!(matches!(
        load(&path, None).unwrap_err(),
        KeyFileError::PassphraseNeeded { .. }
    ));
    assert!(same(
        &import(text.replace('\n', "\r\n").as_bytes(), Some(&right), "mail").unwrap()
    ));
}

#[test]
fn the_passphrase_can_be_set_changed_and_taken_away() {
    let (_dir, path) = place();
    let (first, second) = (passphrase("first"), passphrase("second"));
    create(&path, &key(), None).unwrap();
    change_passphrase(&path, None, Some(&first)).unwrap();
    assert!(change_passphrase(&path, Some(&second), None).is_err());
    assert!(same(&load(&path, Some(&first)).unwrap()));
    change_passphrase(&path, Some(&first), Some(&second)).unwrap();
    assert!(load(&path, Some(&first)).is_err());
    assert!(same(&load(&path, Some(&second)).unwrap()));
    change_passphrase(&path, Some(&second), None).unwrap();
    assert!(!is_encrypted(&path).unwrap());
    assert!(same(&load(&path, None).unwrap()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn a_damaged_encrypted_file_is_an_error_wherever_it_is_damaged() {
    let right = passphrase("right");
    let text = export(&key(), Some(&right)).unwrap();
    for cut in (0..text.len() - 2).step_by(7) {
        assert!(
            import(&text.as_bytes()[..cut], Some(&right), "cut").is_err(),
            "cut at {cut}"
        );
    }
    for at in (0..text.len() - 1).step_by(5) {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] ^= 1;
        if let Ok(found) = import(&bytes, Some(&right), "flipped") {
            assert!(same(&found), "another key when byte {at} is flipped");
        }
    }
}

#[test]
fn a_file_that_would_take_forever_to_open_is_refused() {
    let sealed = "age-encryption.org/v1\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 30\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n\
        --- AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n0123456789abcdef0123456789abcdef";
    let error = import(sealed.as_bytes(), Some(&passphrase("x")), "bomb").unwrap_err();
    assert_eq!(
        error.to_string(),
        "bomb is damaged: opening it would take more work than is sane"
    );
}

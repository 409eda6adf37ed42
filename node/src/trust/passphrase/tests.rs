use std::{fs, os::unix::fs::PermissionsExt};

use super::*;

fn file(dir: &tempfile::TempDir, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn surroundings(variables: &[(&str, &Path)]) -> Result<Option<Passphrase>, PassphraseError> {
    from_surroundings(|name| {
        variables
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, path)| path.as_os_str().to_owned())
    })
}

#[test]
fn the_file_comes_before_the_credential() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "p", b"from the file\n", 0o600);
    file(&dir, CREDENTIAL_NAME, b"from systemd", 0o444);
    let found = surroundings(&[(PASSPHRASE_FILE_VARIABLE, &path), ("CREDENTIALS_DIRECTORY", dir.path())])
        .unwrap()
        .unwrap();
    assert_eq!(found.expose(), "from the file");
    let found = surroundings(&[("CREDENTIALS_DIRECTORY", dir.path())]).unwrap().unwrap();
    assert_eq!(found.expose(), "from systemd");
    assert!(surroundings(&[]).unwrap().is_none());
    assert!(
        surroundings(&[(PASSPHRASE_FILE_VARIABLE, Path::new(""))])
            .unwrap()
            .is_none()
    );
    assert!(
        surroundings(&[("CREDENTIALS_DIRECTORY", Path::new("/none"))])
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_promised_file_that_cannot_serve_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = |path: &Path| surroundings(&[(PASSPHRASE_FILE_VARIABLE, path)]).unwrap_err();
    assert!(matches!(error(Path::new("/none")), PassphraseError::Unreadable { .. }));
    assert!(matches!(error(dir.path()), PassphraseError::Unreadable { .. }));
    assert!(matches!(
        error(&file(&dir, "open", b"secret", 0o644)),
        PassphraseError::TooOpen { mode: 0o644, .. }
    ));
    assert!(matches!(
        error(&file(&dir, "empty", b"\n", 0o600)),
        PassphraseError::Empty
    ));
    assert!(matches!(
        error(&file(&dir, "long", &[b'x'; BYTES_MAX + 1], 0o600)),
        PassphraseError::TooLong
    ));
    assert!(matches!(
        error(&file(&dir, "binary", &[0xff; 8], 0o600)),
        PassphraseError::NotText
    ));
    assert!(matches!(error(Path::new("/dev/zero")), PassphraseError::TooLong));
}

#[test]
fn one_line_end_is_cut_off_and_nothing_else() {
    for (text, expected) in [("a b \n", "a b "), ("x\r\n", "x"), ("x\n\n", "x\n"), (" x", " x")] {
        assert_eq!(Passphrase::new(text.to_owned()).unwrap().expose(), expected);
    }
    assert_eq!(
        Passphrase::new("x".repeat(BYTES_MAX)).unwrap().expose().len(),
        BYTES_MAX
    );
}

#[test]
fn it_is_not_shown() {
    let passphrase = Passphrase::new("hunter2".to_owned()).unwrap();
    assert!(!format!("{passphrase:?}").contains("hunter2"));
}

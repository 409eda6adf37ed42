use std::os::unix::fs::symlink;

use super::*;

fn at(path: impl Into<PathBuf>) -> Place {
    Place {
        path: path.into(),
        own_folder: false,
    }
}

#[test]
fn a_path_too_long_gets_a_short_one_that_is_always_the_same() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(place(dir.path(), None, None).unwrap(), at(dir.path().join(SOCKET_FILE)));
    let long = dir.path().join("x".repeat(200));
    let found = place(&long, None, Some(Path::new("/run/user/7"))).unwrap();
    assert!(found.path.starts_with("/run/user/7") && found.own_folder, "{found:?}");
    assert_eq!(place(&long, None, Some(Path::new("/run/user/7"))).unwrap(), found);
    assert_ne!(
        place(&dir.path().join("y".repeat(200)), None, Some(Path::new("/run/user/7"))).unwrap(),
        found
    );
    let user = rustix::process::geteuid().as_raw();
    let found = place(&long, None, Some(&long)).unwrap();
    assert!(
        found.path.to_str().unwrap().starts_with(&format!("/tmp/weft-{user}-")),
        "{found:?}"
    );
    let edge = PathBuf::from(format!("/{}", "x".repeat(PATH_BYTES_MAX - 1)));
    assert_eq!(place(&long, Some(&edge), None).unwrap(), at(&edge));
    let over = PathBuf::from(format!("/{}", "x".repeat(PATH_BYTES_MAX)));
    assert!(matches!(
        place(&long, Some(&over), None).unwrap_err(),
        SocketError::TooLong(_)
    ));
}

#[tokio::test]
async fn a_short_path_lies_in_a_folder_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place {
        path: dir.path().join("weft-1/api.sock"),
        own_folder: true,
    };
    let (_listener, socket) = bind(&place).unwrap();
    assert_eq!(fs::metadata(dir.path().join("weft-1")).unwrap().mode() & 0o777, 0o700);
    drop(socket);
    // Somebody else's folder under that name is not used.
    fs::set_permissions(dir.path().join("weft-1"), Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        bind(&place).unwrap_err(),
        SocketError::Folder(DataDirError::TooOpen { .. })
    ));
    fs::remove_dir(dir.path().join("weft-1")).unwrap();
    symlink("/tmp", dir.path().join("weft-1")).unwrap();
    assert!(matches!(
        bind(&place).unwrap_err(),
        SocketError::Folder(DataDirError::Symlink { .. })
    ));
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let place = at(dir.path().join(SOCKET_FILE));
    let (listener, socket) = bind(&place).unwrap();
    assert!(matches!(bind(&place).unwrap_err(), SocketError::InUse(_)));
    // As after a kill: the file stays, the listener is gone.
    std::mem::forget(socket);
    drop(listener);
    assert!(place.path.exists());
    let (_listener, socket) = bind(&place).unwrap();
    drop(socket);
    assert!(!place.path.exists());
}

#[tokio::test]
async fn the_socket_of_a_successor_stays() {
    let dir = tempfile::tempdir().unwrap();
    let place = at(dir.path().join(SOCKET_FILE));
    let (listener, first) = bind(&place).unwrap();
    drop(listener);
    let (_listener, second) = bind(&place).unwrap();
    drop(first);
    assert!(place.path.exists());
    drop(second);
    assert!(!place.path.exists());
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET_FILE);
    fs::write(&path, "precious").unwrap();
    assert!(matches!(bind(&at(&path)).unwrap_err(), SocketError::NotASocket(_)));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert!(matches!(bind(&at(dir.path())).unwrap_err(), SocketError::NotASocket(_)));
    let error = bind(&at(dir.path().join("none/api.sock"))).unwrap_err();
    assert!(matches!(error, SocketError::Io { .. }));
}

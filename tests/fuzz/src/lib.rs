//! What the targets have in common: how a message of the wire is looked at, and a running node to write to.

use std::{
    ffi::OsString,
    fmt::Debug,
    fs::Permissions,
    io::{Error, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use weft_protocol::Wire;

/// Reads a message as a peer's. What is read can be written, is then read as the same, and is the same however it was read.
pub fn wire<T: Wire + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let read = T::from_bytes(bytes);
    let moved = T::from_vec(bytes.to_vec());
    assert_eq!(read.as_ref().ok(), moved.as_ref().ok(), "read in place and with a copy");
    let value = read.ok()?;
    let written = value.to_bytes();
    // What later versions append is ignored, so the bytes may be fewer; never more, and never others.
    assert!(written.len() <= bytes.len(), "{value:?} grew");
    let again = T::from_bytes(&written).unwrap_or_else(|error| panic!("{value:?} is not read again: {error}"));
    assert_eq!(value, again);
    Some(value)
}

/// How long a node may take to begin, to answer, and to close a connection once everything was written.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node as `weft run` starts it, in this process, whose code counts.
pub struct RunningNode {
    /// Where applications of this user come in.
    pub socket: PathBuf,
    /// Where NATS clients come in.
    pub nats: SocketAddr,
    _dir: TempDir,
}

/// The node of this process.
pub fn node() -> &'static RunningNode {
    static NODE: OnceLock<RunningNode> = OnceLock::new();
    NODE.get_or_init(|| {
        let private = Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new()
            .permissions(private)
            .tempdir()
            .expect("a folder");
        let path = dir.path().to_str().expect("a path of text").to_owned();
        let arguments = [
            "weft",
            "--data-dir",
            &path,
            "run",
            "--open",
            "--name",
            "target",
            "--listen",
            "/ip4/127.0.0.1/tcp/0",
            "--api",
            "127.0.0.1:0",
        ]
        .map(ToOwned::to_owned);
        // SAFETY: nothing else runs in this process yet.
        unsafe {
            // The fuzzer's own `main` leaves it as it is, and a client that is cut off would end the process.
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            std::env::set_var("WEFT__NATS__LISTEN", "127.0.0.1:0");
            std::env::set_var("WEFT__TELEMETRY__LOG", "off");
        }
        thread::spawn(move || {
            let ended = weft_node::cli::main_with(arguments.map(OsString::from));
            panic!("the node ended by itself: {ended:?}");
        });
        let doors = doors(dir.path());
        let text = |name: &str| doors[name].as_str().unwrap_or_else(|| panic!("no {name} in {doors}"));
        RunningNode {
            socket: text("socket").into(),
            nats: text("nats").parse().expect("an address"),
            _dir: dir,
        }
    })
}

fn doors(dir: &Path) -> serde_json::Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let doors = std::fs::read(dir.join("api.json")).ok();
        if let Some(doors) = doors.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return doors;
        }
        assert!(Instant::now() < end, "the node did not begin");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A connection that can be half closed.
trait Connection: Read + Write {
    fn finish(&self) -> std::io::Result<()>;
}

impl Connection for TcpStream {
    fn finish(&self) -> std::io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Connection for UnixStream {
    fn finish(&self) -> std::io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// Writes to the node's API, and what it answers until it closes, or says nothing for `silence`: some answers have no end.
pub fn say_to_api(bytes: &[u8], silence: Duration) -> Vec<u8> {
    let stream = UnixStream::connect(&node().socket).expect("the API listens");
    stream.set_read_timeout(Some(silence)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    exchange(stream, bytes).0
}

/// Asks the node's API how the node is, as a client that waits for the answer. All places may be taken for a while, by connections whose
/// client is gone and sent more than its request: that is noticed with the next word to it, some seconds later.
pub fn ask_how_it_is() {
    const STATUS: &[u8] = b"GET /v1/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let mut stream = UnixStream::connect(&node().socket).expect("the API listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut answer = Vec::new();
    let asked = stream.write_all(STATUS).and_then(|()| stream.read_to_end(&mut answer));
    let text = String::from_utf8_lossy(&answer);
    let is_answered = ["HTTP/1.1 200", "HTTP/1.1 503"]
        .iter()
        .any(|line| text.starts_with(line));
    assert!(is_answered, "{asked:?}: {text}");
}

/// Writes to the node's NATS door, and what it answers until it closes.
pub fn say_to_nats(bytes: &[u8]) -> Vec<u8> {
    let stream = TcpStream::connect(node().nats).expect("the NATS door listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    let (answer, is_closed) = exchange(stream, bytes);
    assert!(is_closed, "the connection was not closed within {PATIENCE:?}");
    answer
}

/// What was answered, and whether the connection was closed in time.
fn exchange(mut stream: impl Connection, bytes: &[u8]) -> (Vec<u8>, bool) {
    // Who is cut off while writing has been answered all the same.
    let _ = stream.write_all(bytes).and_then(|()| stream.finish());
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    let is_late = |error: &Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    (answer, !ended.is_err_and(|error| is_late(&error)))
}

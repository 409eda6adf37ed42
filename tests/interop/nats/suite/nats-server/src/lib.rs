//! Servers for async-nats's own tests: nodes of Weft whose NATS door is where the tests expect a `nats-server`.
//!
//! Same names and shapes as the helper of that name in async-nats's repository. Of a server's configuration file, what a door has is taken
//! over: addresses, `max_payload`, token, users, NKeys, TLS. Whatever else is asked for (JWT, leaf nodes, JetStream) fails at once
//! and says so, so that a test of it fails and does not pass by accident.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

const READY_WITHIN: Duration = Duration::from_secs(60);
const PARTS_OF_A_CLUSTER: usize = 3;

/// One node. It ends, and its data with it, when this is dropped.
pub struct Server {
    folder: PathBuf,
    settings: Settings,
    listen: SocketAddr,
    child: Child,
}

/// What a node is started with: a ticket of the mesh to join, and variables of its environment.
#[derive(Default)]
struct Settings {
    ticket: Option<String>,
    variables: Vec<(String, String)>,
}

/// Nodes of one mesh.
pub struct Cluster {
    pub servers: Vec<Server>,
}

impl Cluster {
    /// The first one's; clients are told of the others.
    pub fn client_url(&self) -> String {
        self.servers[0].client_url()
    }
}

impl Server {
    /// Ends the node and starts it again with the same data at the same address.
    pub fn restart(&mut self) {
        self.end();
        self.child = start(&self.folder, &self.settings, self.listen);
        wait_for(self.listen);
    }

    pub fn client_port(&self) -> u16 {
        self.listen.port()
    }

    pub fn client_url(&self) -> String {
        let stream = TcpStream::connect(self.listen).expect("the door is open");
        let mut info = String::new();
        BufReader::new(stream).read_line(&mut info).expect("the door says INFO");
        let scheme = if info.contains("\"tls_required\":true") { "tls" } else { "nats" };
        format!("{scheme}://localhost:{}", self.listen.port())
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// As a server does it on a signal: clients are told to go elsewhere.
pub fn set_lame_duck_mode(server: &Server) {
    let pid = server.child.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs");
    assert!(sent.success());
}

pub fn run_basic_server() -> Server {
    run_server("")
}

/// A node with what the file `configuration` says; with none, with defaults.
pub fn run_server(configuration: &str) -> Server {
    run_server_with_port(configuration, None)
}

pub fn run_server_with_port(configuration: &str, port: Option<&str>) -> Server {
    let folder = new_folder();
    let text = if configuration.is_empty() {
        String::new()
    } else {
        fs::read_to_string(configuration).unwrap_or_else(|error| panic!("{configuration}: {error}"))
    };
    let wanted = Wanted::read(&text);
    let port = port.and_then(|port| port.parse().ok()).or(wanted.port).unwrap_or_else(free_port);
    let listen = SocketAddr::from(([127, 0, 0, 1], port));
    let settings = wanted.settings(&folder);
    let child = start(&folder, &settings, listen);
    wait_for(listen);
    Server { folder, settings, listen, child }
}

/// Three nodes of one mesh, whose clients may change from one to another.
pub fn run_cluster(_configuration: &str) -> Cluster {
    let mut servers: Vec<Server> = Vec::new();
    while servers.len() < PARTS_OF_A_CLUSTER {
        let folder = new_folder();
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let settings = Settings {
            ticket: servers.first().map(|first| invite(&first.folder)),
            variables: vec![("WEFT__NATS__ADVERTISE".to_owned(), listen.to_string())],
        };
        let child = start(&folder, &settings, listen);
        wait_for(listen);
        servers.push(Server { folder, settings, listen, child });
    }
    Cluster { servers }
}

/// A ticket of the node in this folder, as soon as it is ready.
fn invite(folder: &Path) -> String {
    let ready = weft(folder).args(["status", "--wait", "60s"]).output().expect("weft runs");
    assert!(ready.status.success(), "{}", String::from_utf8_lossy(&ready.stderr));
    let invited = weft(folder).arg("invite").output().expect("weft runs");
    assert!(invited.status.success(), "{}", String::from_utf8_lossy(&invited.stderr));
    String::from_utf8(invited.stdout).expect("a ticket is text").trim().to_owned()
}

/// What a server's configuration file asks for.
#[derive(Debug, Default)]
struct Wanted {
    port: Option<u16>,
    payload_bytes_max: Option<String>,
    credentials: String,
    certificate: Option<String>,
    key: Option<String>,
    clients_ca: Option<String>,
    tls_first: Option<String>,
}

impl Wanted {
    /// Reads as much of the format as these files use: a setting a line, sections in braces.
    fn read(text: &str) -> Self {
        let mut wanted = Wanted::default();
        let (mut user, mut clients_ca, mut verify) = (None, None, false);
        for line in text.lines().map(|line| line.split(" #").next().unwrap_or_default().trim()) {
            let line = line.trim_start_matches("{ ").trim_end_matches(" }").trim_end_matches(',');
            let Some((name, value)) = line.split_once([':', '=']).map(|(name, value)| (name.trim(), value.trim())) else {
                continue;
            };
            let value = value.trim_matches('"').to_owned();
            match name {
                _ if line.starts_with('#') || line.starts_with("//") => {}
                "listen" | "port" => wanted.port = value.rsplit(':').next().and_then(|port| port.parse().ok()),
                "max_payload" => wanted.payload_bytes_max = Some(value.replace("KB", "KiB")),
                "token" => writeln!(wanted.credentials, "token {value}").expect("memory"),
                "nkey" => writeln!(wanted.credentials, "nkey {value}").expect("memory"),
                "user" => user = Some(value),
                "password" => {
                    let user = user.take().expect("a user stands before its password");
                    writeln!(wanted.credentials, "user {user} {value}").expect("memory");
                }
                "cert_file" => wanted.certificate = Some(value),
                "key_file" => wanted.key = Some(value),
                "ca_file" => clients_ca = Some(value),
                "verify" => verify = value == "true",
                "handshake_first" => wanted.tls_first = Some(value),
                "operator" | "leafnodes" | "websocket" => panic!("Weft's door has no {name}"),
                _ => {}
            }
        }
        wanted.clients_ca = clients_ca.filter(|_| verify);
        wanted
    }

    /// The same for a node, as variables of its environment.
    fn settings(&self, folder: &Path) -> Settings {
        let mut settings = Settings::default();
        let variables = &mut settings.variables;
        let mut set = |name: &str, value: &str| variables.push((format!("WEFT__NATS__{name}"), value.to_owned()));
        let private = |name: &str, bytes: &[u8]| {
            let path = folder.with_extension(name);
            fs::write(&path, bytes).expect("the folder can be written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
            path.display().to_string()
        };
        if let Some(bytes) = &self.payload_bytes_max {
            set("PAYLOAD_BYTES_MAX", bytes);
        }
        if !self.credentials.is_empty() {
            set("CREDENTIALS", &private("credentials", self.credentials.as_bytes()));
        }
        let read = |path: &String| fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            set("TLS_CERTIFICATE", &private("certificate", &read(certificate)));
            set("TLS_KEY", &private("key", &read(key)));
        }
        if let Some(ca) = &self.clients_ca {
            set("TLS_CLIENT_AUTHORITIES", &private("clients", &read(ca)));
        }
        if let Some(first) = &self.tls_first {
            set("TLS_FIRST", if first == "true" { "on" } else { "auto" });
        }
        settings
    }
}

fn binary() -> PathBuf {
    env::var_os("WEFT_BIN").expect("WEFT_BIN names the program under test").into()
}

fn weft(folder: &Path) -> Command {
    let mut command = Command::new(binary());
    command.arg("--data-dir").arg(folder);
    command
}

fn start(folder: &Path, settings: &Settings, listen: SocketAddr) -> Child {
    let log = fs::File::create(folder.with_extension("log")).expect("the folder can be written");
    weft(folder)
        .args(["run", "--no-mdns", "--api", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0", "--nats"])
        .arg(listen.to_string())
        .args(settings.ticket.iter().flat_map(|ticket| ["--join", ticket]))
        .envs(settings.variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("weft runs")
}

fn wait_for(listen: SocketAddr) {
    let until = Instant::now() + READY_WITHIN;
    while TcpStream::connect(listen).is_err() {
        assert!(Instant::now() < until, "no door at {listen}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn free_port() -> u16 {
    let socket = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    socket.local_addr().expect("it is bound").port()
}

/// A name for a folder that is not there; the node makes it. What belongs to it lies beside it with the same name.
fn new_folder() -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let parent = env::var_os("WEFT_SUITE_DIR").map_or_else(env::temp_dir, PathBuf::from);
    parent.join(format!("node-{}-{number}", std::process::id()))
}

//! What async-nats's own tests expect of a server, given by a Weft node (`WEFT_BIN`), or by nats-server itself when `NATS_SERVER` names
//! its binary: for the comparison.

#![allow(clippy::unwrap_used, missing_docs, reason = "test code: a failure must stop the test where it happens")]

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running server; it ends with this.
pub struct Server {
    home: TempDir,
    config: String,
    port: u16,
    child: Option<Child>,
}

pub struct Cluster {
    pub servers: Vec<Server>,
}

pub fn run_basic_server() -> Server {
    run_server("")
}

pub fn run_server(config: &str) -> Server {
    run_server_with_port(config, None)
}

pub fn run_server_with_port(config: &str, port: Option<&str>) -> Server {
    let port = port.map_or_else(free_port, |port| port.parse().unwrap());
    let mut server = Server {
        home: tempfile::tempdir().unwrap(),
        config: config.to_owned(),
        port,
        child: None,
    };
    server.start();
    server
}

pub fn run_cluster(_: &str) -> Cluster {
    panic!("a Weft node is no part of a cluster of nats-servers");
}

pub fn set_lame_duck_mode(server: &Server) {
    let pid = server.child.as_ref().unwrap().id().to_string();
    let signal = if is_weft() { "TERM" } else { "USR2" };
    assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
}

fn is_weft() -> bool {
    std::env::var_os("NATS_SERVER").is_none()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    pub fn client_url(&self) -> String {
        self.url("")
    }

    pub fn client_url_with(&self, user: &str, password: &str) -> String {
        self.url(&format!("{user}:{password}@"))
    }

    pub fn client_url_with_token(&self, token: &str) -> String {
        self.url(&format!("{token}@"))
    }

    fn url(&self, who: &str) -> String {
        let (scheme, host) = if self.config.contains("tls") {
            ("tls", "localhost")
        } else {
            ("nats", "127.0.0.1")
        };
        format!("{scheme}://{who}{host}:{}", self.port)
    }

    pub fn client_port(&self) -> u16 {
        self.port
    }

    pub fn client_pid(&self) -> usize {
        self.child.as_ref().unwrap().id() as usize
    }

    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn start(&mut self) {
        let mut command = if is_weft() { self.weft() } else { self.nats_server() };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while !self.is_up() {
            assert!(Instant::now() < deadline, "the server does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn is_up(&self) -> bool {
        std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    fn nats_server(&self) -> Command {
        let mut command = Command::new(std::env::var_os("NATS_SERVER").unwrap());
        command.args(["-p", &self.port.to_string()]);
        if !self.config.is_empty() {
            command.args(["-c", &self.config]);
        }
        command
    }

    /// The node, configured as the tests' file for nats-server says, as far as it has a meaning here.
    fn weft(&self) -> Command {
        let data = self.home.path().join("data");
        let mut command = Command::new(std::env::var_os("WEFT_BIN").unwrap());
        command.arg("--data-dir").arg(&data).args(["run", "--no-mdns", "--api", "127.0.0.1:0"]);
        command.args(["--nats", &format!("127.0.0.1:{}", self.port)]);
        command.args(["--listen", "/ip4/127.0.0.1/tcp/0"]);
        command.env("WEFT__NATS__LAME_DUCK", "500ms");
        let text = if self.config.is_empty() {
            String::new()
        } else {
            fs::read_to_string(&self.config).unwrap()
        };
        let value = |key: &str| {
            let line = text.lines().find(|line| line.trim_start().trim_start_matches("{ ").starts_with(key))?;
            let value = line.split([':', '=']).nth(1)?;
            Some(value.trim().trim_matches(['"', '}', ' ']).to_owned())
        };
        let mut secrets = String::new();
        if let Some(token) = value("token") {
            secrets.push_str(&format!("token {token}\n"));
        }
        if let (Some(user), Some(password)) = (value("user"), value("password")) {
            secrets.push_str(&format!("user {user} {password}\n"));
        }
        if let Some(nkey) = value("nkey") {
            secrets.push_str(&format!("nkey {nkey}\n"));
        }
        if !secrets.is_empty() {
            command.env("WEFT__NATS__CREDENTIALS", self.secret(&secrets));
        }
        if let (Some(certificate), Some(key)) = (value("cert_file"), value("key_file")) {
            command.env("WEFT__NATS__TLS_CERTIFICATE", fs::canonicalize(certificate).unwrap());
            command.env("WEFT__NATS__TLS_KEY", fs::canonicalize(key).unwrap());
        }
        if let Some(max) = value("max_payload") {
            command.env("WEFT__NATS__PAYLOAD_BYTES_MAX", max.replace("KB", "KiB"));
        }
        command
    }

    fn secret(&self, text: &str) -> PathBuf {
        let path = Path::new(self.home.path()).join("credentials");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

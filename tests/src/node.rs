//! A node as a process of the built binary, with a data dir of its own.

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicU16, Ordering},
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    background::{Background, signal_to, write_error},
    cgroup::MemoryCgroup,
    command::{self, Outcome},
    http::{Answer, Request},
    wait::until,
};

/// Of the log of a node, for the output of a failed test.
const LOG_LINES_SHOWN: usize = 40;
/// Clock ticks of `/proc/PID/stat` in a second: part of the kernel's interface.
const USER_HZ: f64 = 100.0;

/// A node; killed when dropped.
pub struct Node {
    home: TempDir,
    /// A loopback address of its own, so that it can come back to its ports without a race.
    ip: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// The file of a control group that takes in the process before it is the node's.
    cgroup: Option<PathBuf>,
    child: Option<Child>,
    /// What `status` said when it was ready for the first time.
    peer_id: String,
    listen: Vec<String>,
    api: Option<SocketAddr>,
    token: String,
}

impl Node {
    /// A node that is not started yet.
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        // Other test processes on this machine use other networks.
        let network = std::process::id() % 200 + 20;
        Node {
            home: tempfile::tempdir().unwrap(),
            ip: format!("127.{network}.{high}.{}", low.max(1)),
            args: vec!["--name".to_owned(), name.to_owned()],
            env: Vec::new(),
            cgroup: None,
            child: None,
            peer_id: String::new(),
            listen: Vec::new(),
            api: None,
            token: String::new(),
        }
    }

    /// A started node, ready, that founded a mesh of its own.
    pub fn founder(name: &str) -> Self {
        Self::new(name).started()
    }

    /// A started node that joined by a ticket.
    pub fn joined(name: &str, ticket: &str) -> Self {
        Self::new(name).arg("--join").arg(ticket).started()
    }

    /// Adds an argument of `weft run`.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Adds a variable to the environment of `weft run`.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs it in a control group from its first page on.
    #[must_use]
    pub fn within(mut self, group: &MemoryCgroup) -> Self {
        self.cgroup = Some(group.processes());
        self
    }

    /// Takes back `--join` and `--bootstrap`: from now on the node has to know the way by itself.
    pub fn forget_way_in(&mut self) {
        while let Some(at) = self.args.iter().position(|a| a == "--join" || a == "--bootstrap") {
            self.args.drain(at..at + 2);
        }
    }

    /// Starts it and waits until it is ready.
    #[must_use]
    pub fn started(mut self) -> Self {
        self.start();
        self
    }

    /// Starts it and waits until it is ready.
    pub fn start(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    /// Starts the process, on the ports it had before if it ran before.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let listen = match self.listen.as_slice() {
            [] => vec![
                format!("/ip4/{}/tcp/0", self.ip),
                format!("/ip4/{}/udp/0/quic-v1", self.ip),
            ],
            known => known.to_vec(),
        };
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = match &self.cgroup {
            Some(processes) => command::command_in(self.home.path(), processes),
            None => command::command(self.home.path()),
        };
        command
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["run", "--api", "127.0.0.1:0", "--no-mdns"]);
        for address in listen {
            command.args(["--listen", &address]);
        }
        command.args(&self.args).envs(self.env.iter().map(|(n, v)| (n, v)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Waits until it says that it is ready.
    pub fn wait_ready(&mut self) {
        self.wait_up();
        let what = format!("{} is ready\n{}", self.peer_id, self.log_tail());
        until(&what, || self.status()["ready"].as_bool().filter(|r| *r));
    }

    /// Waits until its local API answers; it need not be a member of a mesh.
    pub fn wait_up(&mut self) {
        let status = until("the API answers", || {
            if let Some(ended) = self.child.as_mut().and_then(|c| c.try_wait().unwrap()) {
                self.child = None;
                panic!("the node ended with {ended}\n{}", self.log_tail());
            }
            let doors: Value = serde_json::from_slice(&fs::read(self.file("api.json")).ok()?).ok()?;
            // Until the new process has written its own, the file of a killed one is there.
            (doors["pid"].as_u64() == Some(u64::from(self.pid()))).then_some(())?;
            self.api = doors["api"].as_str()?.strip_prefix("http://")?.parse().ok();
            self.token = fs::read_to_string(self.file("api.token")).ok()?.trim().to_owned();
            let status = self.try_get("/v1/status")?;
            status["listen"]
                .as_array()
                .filter(|l| l.len() >= 2)
                .is_some()
                .then_some(status)
        });
        self.peer_id = status["peer_id"].as_str().unwrap().to_owned();
        let listen = status["listen"].as_array().unwrap().iter().map(|a| a.as_str().unwrap());
        self.listen = listen.map(|a| a.split("/p2p/").next().unwrap().to_owned()).collect();
    }

    /// Its peer id.
    pub fn id(&self) -> &str {
        &self.peer_id
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Its data dir.
    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// A file of the data dir.
    pub fn file(&self, name: &str) -> PathBuf {
        self.data_dir().join(name)
    }

    /// The folder around the data dir: the home of its commands.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Where it listens by a transport (`/tcp/` or `/quic-v1`), with its id.
    #[track_caller]
    pub fn address(&self, transport: &str) -> String {
        let found = self
            .listen
            .iter()
            .find(|a| a.contains(transport) || a.ends_with(transport.trim_end_matches('/')));
        format!("{}/p2p/{}", found.expect("it listens by that transport"), self.peer_id)
    }

    /// The socket address of its TCP listener for peers.
    pub fn tcp_socket(&self) -> SocketAddr {
        let address = self.address("/tcp/");
        let port = address.split("/tcp/").nth(1).unwrap().split('/').next().unwrap();
        format!("{}:{port}", self.ip).parse().unwrap()
    }

    /// The socket address of its local API.
    pub fn api(&self) -> SocketAddr {
        self.api.expect("it is up")
    }

    /// The address of its NATS door, which `--nats` opened.
    #[track_caller]
    pub fn nats(&self) -> String {
        let status = self.status();
        status["nats"].as_str().expect("its NATS door is open").to_owned()
    }

    /// The token of its local API.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A request to its local API, with the token.
    pub fn request(&self, method: &str, target: &str) -> Request {
        Request::new(method, target).token(&self.token)
    }

    /// Sends a request to its local API.
    #[track_caller]
    pub fn send(&self, request: &Request) -> Answer {
        request
            .send(self.api())
            .unwrap_or_else(|e| panic!("{request:?}: {e}\n{}", self.log_tail()))
    }

    /// The JSON that a path of its local API answers.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let answer = self.send(&self.request("GET", path));
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    fn try_get(&self, path: &str) -> Option<Value> {
        let answer = self.request("GET", path).send(self.api?).ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    /// `/v1/status`.
    pub fn status(&self) -> Value {
        self.try_get("/v1/status").unwrap_or(Value::Null)
    }

    /// The ids of the connected members.
    pub fn peers(&self) -> Vec<String> {
        let peers = self.try_get("/v1/peers").unwrap_or_default();
        let ids = peers
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|p| p["peer_id"].as_str());
        ids.map(str::to_owned).collect()
    }

    /// Whether a member is connected.
    pub fn sees(&self, peer: &str) -> bool {
        self.peers().iter().any(|p| p == peer)
    }

    /// Waits until a member is connected.
    #[track_caller]
    pub fn wait_sees(&self, peer: &str) {
        until(&format!("{} sees {peer}\n{}", self.peer_id, self.log_tail()), || {
            self.sees(peer).then_some(())
        });
    }

    /// Waits until somebody is not connected any more.
    #[track_caller]
    pub fn wait_lost(&self, peer: &str) {
        until(&format!("{} loses {peer}", self.peer_id), || {
            (!self.sees(peer)).then_some(())
        });
    }

    /// Runs a command of `weft` against this node.
    pub fn run<A: AsRef<OsStr>>(&self, args: &[A]) -> Outcome {
        command::weft(self.home(), &self.data_dir(), args)
    }

    /// Runs a command with input.
    pub fn run_with_input<A: AsRef<OsStr>>(&self, args: &[A], input: &[u8]) -> Outcome {
        command::weft_with_input(self.home(), &self.data_dir(), args, input)
    }

    /// Starts a command that goes on.
    pub fn background(&self, args: &[&str]) -> Background {
        let mut command = command::command(self.home());
        command.arg("--data-dir").arg(self.data_dir()).args(args);
        Background::start(command, &args.join(" "))
    }

    /// Offers a service and waits until it is offered.
    pub fn serve(&self, name: &str, how: &[&str]) -> Background {
        let mut args = vec!["serve", name];
        args.extend(how);
        let mut serving = self.background(&args);
        serving.wait_said(&format!("serving {name}"));
        serving
    }

    /// Subscribes and waits until the subscription is active.
    pub fn subscribe(&self, args: &[&str]) -> Background {
        let mut all = vec!["sub"];
        all.extend(args);
        let mut subscription = self.background(&all);
        subscription.wait_said("subscribed to");
        subscription
    }

    /// A ticket for any number of nodes.
    pub fn ticket(&self, uses: usize) -> String {
        self.run(&["invite", "--uses", &uses.to_string()])
            .ok()
            .trim()
            .to_owned()
    }

    /// Ends the process as a power cut would, from the process's point of view.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Makes sure that the process has ended, killing it if it has not.
    pub fn end(&mut self) {
        if !self.has_ended() {
            self.kill();
        }
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        let ended = self.child.as_mut().is_none_or(|c| c.try_wait().unwrap().is_some());
        if ended {
            self.child = None;
        }
        ended
    }

    /// Asks it to stop and waits; the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        signal_to(self.pid(), Signal::TERM);
        let mut child = self.child.take().expect("it runs");
        until("the node stops", || child.try_wait().unwrap()).code()
    }

    /// Waits for a node that ends by itself; the exit code and its log.
    pub fn wait_ended(&mut self) -> (Option<i32>, String) {
        let mut child = self.child.take().expect("it runs");
        let code = until("the node ends", || child.try_wait().unwrap()).code();
        (code, self.log())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        signal_to(self.pid(), signal);
    }

    /// Whether the process runs and its API answers.
    pub fn is_alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| c.try_wait().unwrap().is_none()) && self.try_get("/v1/status").is_some()
    }

    /// Resident memory, bytes.
    pub fn rss_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Open descriptors.
    pub fn open_fds(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Processor time used until now, seconds.
    pub fn cpu_s(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: f64 = fields[11..13].iter().map(|f| f.parse::<f64>().unwrap()).sum();
        ticks / USER_HZ
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The last lines it has logged.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("log")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            write_error(&format!(
                "--- log of {} ({})\n{}\n",
                self.args[1],
                self.peer_id,
                self.log_tail()
            ));
        }
    }
}

//! What a user can get wrong before the node is up: configuration, ports, the data dir.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, process::Command};

use rustix::process::Signal;
use weft_tests::{Node, Outcome, command, until};

/// Runs a node that must refuse to start.
fn refused(node: &Node, args: &[&str]) -> Outcome {
    let mut all = vec!["run", "--no-mdns"];
    if !args.contains(&"--listen") {
        all.extend(["--listen", "/ip4/127.0.0.1/tcp/0"]);
    }
    if !args.contains(&"--api") {
        all.extend(["--api", "127.0.0.1:0"]);
    }
    all.extend(args);
    let outcome = node.run(&all);
    assert!(outcome.code.is_some_and(|c| c != 0), "{}", outcome.describe());
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.describe());
    outcome
}

fn write_config(node: &Node, text: impl AsRef<[u8]>) {
    fs::create_dir_all(node.data_dir()).unwrap();
    fs::set_permissions(node.data_dir(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(node.file("config.toml"), text).unwrap();
}

#[test]
fn mistakes_in_the_file_are_named_with_their_line() {
    let node = Node::new("alpha");
    let cases: [(&str, &[&str]); 8] = [
        (
            "[mesh]\nbootstrp = []\n",
            &["config.toml:2", "unknown key", "did you mean", "bootstrap"],
        ),
        ("[mehs]\n", &["config.toml:1", "unknown section", "mesh"]),
        ("[mesh]\nmdns = \"perhaps\"\n", &["config.toml:2", "mesh.mdns"]),
        ("[api]\nbody_timeout = \"soon\"\n", &["api.body_timeout"]),
        ("[mesh]\nconnections_max = -1\n", &["mesh.connections_max"]),
        ("[mesh\n", &["config.toml:1"]),
        ("[node]\nname = \"a\"\nname = \"b\"\n", &["config.toml:3"]),
        ("[mesh]\nbootstrap = [\"/ip4/300.1.1.1/tcp/1\"]\n", &["mesh.bootstrap"]),
    ];
    for (text, words) in cases {
        write_config(&node, text);
        refused(&node, &[]).fails_saying(2, words);
        node.run(&["config", "validate"]).fails_saying(2, words);
    }
    // All at once, not the first only.
    write_config(&node, "[mesh]\nbootstrp = []\nmdns = 3\n[telemtry]\n");
    refused(&node, &[]).fails_saying(2, &["bootstrp", "mesh.mdns", "telemtry"]);
    write_config(&node, "#".repeat(1_100_000));
    refused(&node, &[]).fails_saying(2, &["larger than"]);
    write_config(&node, b"\xff\xfe\0\0");
    refused(&node, &[]).fails(2);
    refused(&node, &["--config", "/nonexistent/weft.toml"]).fails_saying(2, &["/nonexistent/weft.toml"]);
    // A byte order mark and Windows line ends do no harm.
    write_config(&node, "\u{feff}[node]\r\nname = \"from-file\"\r\n");
    node.run(&["config", "validate"]).ok();
}

#[test]
fn flags_and_variables_are_checked_like_the_file() {
    let node = Node::new("alpha");
    refused(&node, &["--listen", "here"]).fails_saying(2, &["--listen"]);
    refused(&node, &["--api", "localhost"]).fails_saying(2, &["--api"]);
    refused(&node, &["--api", "127.0.0.1:65536"]).fails_saying(2, &["--api"]);
    refused(&node, &["--bootstrap", "/ip4/127.0.0.1/tcp/1"]).fails_saying(2, &["/p2p/"]);
    refused(&node, &["--memory-budget", "lots"]).fails(2);
    refused(&node, &["--log", "what=is=this"]).fails(2);
    for (name, words) in [
        ("WEFT__MESH__BOOTSTRP", "bootstrap"),
        ("WEFT__MEHS__MDNS", "mesh"),
        ("WEFT__API__LISTEN", "api.listen"),
    ] {
        let mut run = command::command(node.home());
        run.arg("--data-dir")
            .arg(node.data_dir())
            .args(["run", "--no-mdns"])
            .env(name, "nonsense");
        command::run(run, b"").fails_saying(2, &[name, words]);
    }
}

#[test]
fn the_defaults_are_a_good_configuration() {
    let node = Node::new("alpha");
    let defaults = node.run(&["config", "show", "--defaults"]).ok();
    write_config(&node, &defaults);
    node.run(&["config", "validate"]).ok();
    let started = Node::new("alpha")
        .env("WEFT__NODE__NAME", "ignored-for-the-flag")
        .env("WEFT__API__BODY_BYTES_MAX", "2MiB")
        .started();
    let shown = started.run(&["config", "show"]).ok();
    assert!(
        shown.contains("name = \"alpha\"") && !shown.contains("ignored-for-the-flag"),
        "{shown}"
    );
    assert!(shown.contains("2MiB") || shown.contains("2097152"), "{shown}");
    let values = started.run(&["config", "show", "--json"]).json();
    assert_eq!(values["node"]["name"], "alpha", "{values}");
    assert_eq!(values["origins"]["node.name"], "flag --name", "{values}");
    assert_eq!(values["mesh"]["mdns"], false, "{values}");
}

#[test]
fn a_port_in_use_is_named() {
    let node = Node::new("alpha");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let api = refused(&node, &["--api", &format!("127.0.0.1:{port}")]);
    assert!(
        api.stderr.contains(&port) && api.stderr.contains("in use"),
        "{}",
        api.describe()
    );
    let listen = refused(&node, &["--listen", &format!("/ip4/127.0.0.1/tcp/{port}")]);
    assert!(
        listen.stderr.contains(&port) && listen.stderr.contains("in use"),
        "{}",
        listen.describe()
    );
    let address = refused(&node, &["--listen", "/ip4/192.0.2.1/tcp/7000"]);
    assert!(address.stderr.contains("192.0.2.1"), "{}", address.describe());
}

#[test]
fn sighup_and_the_command_reload_what_can_be_reloaded() {
    let mut node = Node::founder("alpha");
    fs::write(
        node.file("config.toml"),
        "[telemetry]\nlog = \"weft_node=debug\"\n[store]\ncache_bytes = \"32MiB\"\n",
    )
    .unwrap();
    node.signal(Signal::HUP);
    until("it says what was reloaded", || {
        let log = node.log();
        let line = log.lines().find(|l| l.contains("configuration reloaded"))?.to_owned();
        assert!(
            line.contains("telemetry.log") && line.contains("store.cache_bytes"),
            "{line}"
        );
        Some(())
    });
    fs::write(node.file("config.toml"), "[telemetry]\nlgo = \"info\"\n").unwrap();
    node.signal(Signal::HUP);
    until("it says why not", || {
        node.log().contains("was not reloaded").then_some(())
    });
    node.run(&["config", "reload"]).fails_saying(2, &["telemetry.log"]);
    assert!(node.is_alive());
    fs::write(node.file("config.toml"), "").unwrap();
    node.run(&["config", "reload"]).ok();
    assert_eq!(node.stop(), Some(0), "and it still stops in order");
}

#[test]
fn a_data_dir_that_others_can_read_is_refused_with_the_repair() {
    let mut node = Node::founder("alpha");
    let id = node.id().to_owned();
    assert_eq!(node.stop(), Some(0));
    for (file, mode) in [("node.key", 0o644), ("root.key", 0o640), ("", 0o755)] {
        let path = node.data_dir().join(file);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let outcome = refused(&node, &[]);
        outcome.fails_saying(4, &["chmod"]);
        // The advice does what it promises.
        let advice = outcome
            .stderr
            .lines()
            .find_map(|l| l.find("chmod").map(|at| l[at..].to_owned()))
            .unwrap();
        assert!(
            Command::new("sh").arg("-c").arg(&advice).status().unwrap().success(),
            "{advice}"
        );
    }
    node.start();
    assert_eq!(node.id(), id);
}

#[test]
fn a_data_dir_that_is_no_folder_is_refused() {
    let node = Node::new("alpha");
    let file = node.home().join("file");
    fs::write(&file, "").unwrap();
    let link = node.home().join("link");
    std::os::unix::fs::symlink(node.home(), &link).unwrap();
    for path in [file.clone(), file.join("below"), link] {
        let outcome = command::weft(node.home(), &path, &["run", "--api", "127.0.0.1:0", "--no-mdns"]);
        outcome.fails_saying(2, &[path.file_name().unwrap().to_str().unwrap()]);
    }
    let mut damaged = Node::founder("beta");
    assert_eq!(damaged.stop(), Some(0));
    for (file, content) in [
        ("node.key", &b"nonsense"[..]),
        ("node.key", b""),
        ("root.key", &[0xff; 70_000]),
    ] {
        let path = damaged.file(file);
        let good = fs::read(&path).unwrap();
        fs::write(&path, content).unwrap();
        let outcome = refused(&damaged, &[]);
        assert!(outcome.stderr.contains(file), "{}", outcome.describe());
        fs::write(&path, good).unwrap();
    }
    damaged.start();
}

#[test]
fn a_store_of_a_newer_version_is_refused_and_left_alone() {
    let mut node = Node::founder("alpha");
    let id = node.id().to_owned();
    assert_eq!(node.stop(), Some(0));
    let format = node.file("store/FORMAT");
    let good = fs::read(&format).unwrap();
    fs::write(&format, "weft-store 99\n").unwrap();
    let outcome = refused(&node, &[]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.describe());
    assert!(
        outcome.stderr.contains("99") && outcome.stderr.contains("newer"),
        "{}",
        outcome.describe()
    );
    assert_eq!(fs::read_to_string(&format).unwrap(), "weft-store 99\n");
    fs::write(&format, good).unwrap();
    node.start();
    assert_eq!(node.id(), id);
}

/// A small file system of its own; only root may mount one.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: std::path::PathBuf, size: &str) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let options = format!("size={size},mode=0700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&at)
            .output();
        mounted.is_ok_and(|o| o.status.success()).then_some(SmallDisk(at))
    }

    fn remount(&self, options: &str) {
        let done = Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(&self.0)
            .status()
            .unwrap();
        assert!(done.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_or_read_only_disk_is_a_clear_error() {
    if !rustix::process::geteuid().is_root() {
        // The unit tests of the store have the same with a simulated disk.
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(home.path().join("disk"), "200m") else {
        return;
    };
    let dir = disk.0.join("data");
    let run = |dir: &std::path::Path| {
        command::weft(
            home.path(),
            dir,
            &[
                "run",
                "--listen",
                "/ip4/127.0.0.1/tcp/0",
                "--api",
                "127.0.0.1:0",
                "--no-mdns",
            ],
        )
    };
    // Full from the beginning.
    let filler = disk.0.join("filler");
    fill(&filler);
    let outcome = run(&dir);
    assert!(outcome.code.is_some_and(|c| c != 0), "{}", outcome.describe());
    assert!(
        outcome.stderr.to_lowercase().contains("no space"),
        "{}",
        outcome.describe()
    );
    fs::remove_file(&filler).unwrap();
    // Read-only: nothing can be made, and nothing of what is there is harmed.
    command::weft(home.path(), &dir, &["init"]).ok();
    disk.remount("ro");
    let outcome = run(&dir);
    assert!(outcome.code.is_some_and(|c| c != 0), "{}", outcome.describe());
    assert!(
        outcome.stderr.to_lowercase().contains("read-only"),
        "{}",
        outcome.describe()
    );
    command::weft(home.path(), &disk.0.join("other"), &["init"]).fails(4);
    disk.remount("rw");
    let again = command::weft(home.path(), &dir, &["init"]);
    again.fails_saying(1, &["belongs to"]);
}

/// Writes until the disk is full.
fn fill(path: &std::path::Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    while file.write_all(&[0; 1]).is_ok() {}
}

#[test]
fn a_disk_that_becomes_full_stops_writes_and_not_the_node() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut node = Node::new("alpha");
    let Some(disk) = SmallDisk::mount(node.data_dir(), "200m") else {
        return;
    };
    node.start();
    let filler = disk.0.join("filler");
    fill(&filler);
    // Invitations are durable before they are shown: without space there are none.
    let refused = until("an invitation fails for want of space", || {
        let invited = node.run(&["invite"]);
        (invited.code != Some(0)).then_some(invited)
    });
    refused.fails(1);
    assert!(refused.stderr.contains("no room on the disk"), "{}", refused.describe());
    assert!(node.is_alive(), "it lives on");
    fs::remove_file(&filler).unwrap();
    node.kill();
    node.start();
    node.run(&["invite"]).ok();
    node.kill();
}

#[test]
fn nodes_of_the_same_defaults_find_free_ports() {
    // Both begin with the default ports: the second takes others, because nobody chose them.
    let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let nodes: Vec<_> = homes
        .iter()
        .map(|home| {
            let mut run = command::command(home.path());
            run.arg("--data-dir")
                .arg(home.path().join("data"))
                .args(["run", "--no-mdns"]);
            weft_tests::Background::start(run, "run")
        })
        .collect();
    let apis: Vec<String> = homes
        .iter()
        .map(|home| {
            let status = command::weft(
                home.path(),
                &home.path().join("data"),
                &["status", "--wait", "60s", "--json"],
            )
            .json();
            status["api"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_ne!(apis[0], apis[1]);
    drop(nodes);
}

//! Bodies of any size: byte for byte, in little memory, and no faster than they are read.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::Stdio,
};

use rustix::process::Signal;
use weft_tests::{Mesh, Node, cgroup::MemoryCgroup, command, until};

/// What flows through nodes that have little memory.
const BIG_BYTES: usize = 192 << 20;
/// What a node may use beyond what it uses when it is idle.
const BESIDES_BYTES: u64 = 64 << 20;

fn wait_knows(node: &Node, count: usize) {
    until("it knows the services", || {
        (node.get("/v1/services").as_array()?.len() == count).then_some(())
    });
}

/// Bytes that do not repeat soon.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

#[test]
fn what_is_larger_than_a_call_arrives_byte_for_byte() {
    let mesh = Mesh::of(2);
    let (alpha, beta) = (&mesh[0], &mesh[1]);
    let _echo = alpha.serve("echo", &["--echo"]);
    let _turned = alpha.serve("turned", &["--exec", "tr a-z A-Z"]);
    for node in [alpha, beta] {
        wait_knows(node, 2);
        for length in [0, 1, 65_536, 65_537, 5_000_000] {
            let bytes = noise(length);
            let file = node.home().join("body");
            std::fs::write(&file, &bytes).unwrap();
            let named = format!("@{}", file.display());
            for answer in [
                node.run(&["call", "echo", &named, "--stream"]),
                node.run_with_input(&["call", "echo", "--stream"], &bytes),
            ] {
                assert_eq!(answer.code, Some(0), "{}", answer.describe());
                assert!(
                    answer.stdout == bytes,
                    "{length} bytes came back as {}",
                    answer.stdout.len()
                );
            }
        }
        assert_eq!(node.run(&["call", "turned", "up", "--stream"]).ok(), "UP");
        // One that is called as usual answers as usual.
        assert_eq!(node.run(&["call", "turned", "up"]).ok(), "UP");
    }
    beta.run(&["call", "nobody", "x", "--stream"])
        .fails_saying(3, &["nobody"]);
    beta.run(&["call", "echo", "x", "--stream", "--key", "k"]).fails(2);
}

#[test]
fn http_servers_and_clients_stream_too() {
    let mesh = Mesh::of(2);
    let (alpha, beta) = (&mesh[0], &mesh[1]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/up", listener.local_addr().unwrap());
    // Takes what comes until it has seen the end of a chunked body, then answers with more than a call carries.
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let (mut heard, mut piece) = (Vec::new(), vec![0; 1 << 16]);
        while !heard.ends_with(b"0\r\n\r\n") {
            let read = socket.read(&mut piece).unwrap();
            assert!(read > 0, "the request ended early");
            heard.extend_from_slice(&piece[..read]);
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/x\r\ncontent-length: 3000000\r\n\r\n";
        socket.write_all(head.as_bytes()).unwrap();
        socket.write_all(&[b'y'; 3_000_000]).unwrap();
        heard.len()
    });
    let _up = alpha.serve("up", &["--http", &url]);
    wait_knows(beta, 1);
    let answer = beta.send(
        &beta
            .request("POST", "/v1/stream/services/up")
            .body(&vec![b'x'; 3_000_000]),
    );
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("weft-header-content-type"), Some("text/x"));
    assert!(answer.body == [b'y'; 3_000_000], "{} bytes", answer.body.len());
    assert!(server.join().unwrap() > 3_000_000);
}

#[test]
fn a_body_of_any_size_passes_through_little_memory() {
    let probe = Node::founder("probe");
    let idle = probe.rss_bytes();
    drop(probe);
    let group = MemoryCgroup::new(2 * (idle + BESIDES_BYTES)).ok();
    let within = |node: Node| match &group {
        Some(group) => node.within(group).started(),
        None => node.started(),
    };
    let mut alpha = within(Node::new("alpha"));
    let ticket = alpha.ticket(1);
    let mut beta = within(Node::new("beta").arg("--join").arg(&ticket));
    beta.wait_ready();
    let _count = alpha.serve("count", &["--exec", "wc -c"]);
    let make = format!("head -c {BIG_BYTES} /dev/zero");
    let _make = alpha.serve("make", &["--exec", &make]);
    wait_knows(&beta, 2);
    // As a file, which takes no memory of this test's.
    let file = beta.home().join("big");
    File::create(&file).unwrap().set_len(BIG_BYTES as u64).unwrap();
    let named = format!("@{}", file.display());
    let counted = beta.run(&["call", "count", &named, "--stream"]).ok();
    assert_eq!(counted.trim(), BIG_BYTES.to_string());
    let mut call = command::command(beta.home());
    call.arg("--data-dir")
        .arg(beta.data_dir())
        .args(["call", "make", "x", "--stream"]);
    let mut call = call.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut answer = call.stdout.take().unwrap();
    let made = std::io::copy(&mut answer, &mut std::io::sink()).unwrap();
    assert!(call.wait().unwrap().success());
    assert_eq!(made, BIG_BYTES as u64);
    for node in [&mut alpha, &mut beta] {
        assert!(node.is_alive(), "{}", node.log());
        let peak = peak_bytes(node.pid());
        assert!(
            peak < idle + BESIDES_BYTES,
            "{} MiB, idle {} MiB",
            peak >> 20,
            idle >> 20
        );
    }
    assert_eq!(group.map_or(0, |group| group.killed()), 0);
}

fn peak_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn what_fails_on_the_way_never_looks_whole() {
    let mesh = Mesh::of(2);
    let (alpha, beta) = (&mesh[0], &mesh[1]);
    let _half = alpha.serve(
        "half",
        &["--exec", "head -c 100000 /dev/zero; echo no more >&2; exit 3"],
    );
    let file = alpha.home().join("pid");
    let endless = format!(
        "echo $$ >{0}.new; mv {0}.new {0}; while echo more; do sleep 0.05; done",
        file.display()
    );
    let mut endless = alpha.serve("endless", &["--exec", &endless]);
    wait_knows(beta, 2);
    let half = beta.run(&["call", "half", "x", "--stream"]);
    assert_ne!(half.code, Some(0), "{}", half.describe());
    // The reader goes: so does the command.
    let mut call = beta.background(&["call", "endless", "x", "--stream"]);
    let pid = until("the command runs", || std::fs::read_to_string(&file).ok());
    call.signal(Signal::INT);
    call.wait_ended();
    until("the command is gone", || (!is_alive(&pid)).then_some(()));
    std::fs::remove_file(&file).unwrap();
    // The service dies in the midst of its answer: the reader is told.
    let mut call = beta.background(&["call", "endless", "x", "--stream"]);
    until("the command runs", || std::fs::read_to_string(&file).ok());
    endless.signal(Signal::KILL);
    endless.wait_ended();
    assert_ne!(call.wait_ended(), Some(0));
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

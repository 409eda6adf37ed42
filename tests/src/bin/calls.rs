//! Figures of calls: how many a second between two nodes, beside what plain TCP echoes in the same run.
//!
//! `cargo run --release -p weft-tests --bin weft-bench-calls`. Both nodes and the echo are in this one process, on loopback;
//! a busy machine slows all of them, so look at the ratios.

#![expect(clippy::print_stdout, reason = "the figures are the output")]
#![expect(clippy::disallowed_methods, reason = "what calls from outside belongs to no node")]

use std::{
    error::Error,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use weft_node::{
    Node, NodeError, NodeOptions,
    mesh::MeshConfig,
    patterns::request_response::{CallOptions, RequestResponse, ServiceOptions},
    platform::{Platform as _, RealPlatform, new_key},
    trust::{FoundOptions, MeshKind},
};
use weft_protocol::Multiaddr;

/// How long each figure is measured.
const FOR: Duration = Duration::from_secs(3);

type Failed = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    println!("{:<44} {:>12} {:>12} {:>8}", "figure", "calls/s", "TCP echo/s", "ratio");
    for (bytes, in_flight) in [(64, 1), (64, 64), (65_536, 64)] {
        let echo = tcp_echo(bytes, in_flight).await?;
        for (carrier, listen) in [
            ("TCP", "/ip4/127.0.0.1/tcp/0"),
            ("QUIC", "/ip4/127.0.0.1/udp/0/quic-v1"),
        ] {
            let calls = calls(listen.parse()?, bytes, in_flight).await?;
            let figure = format!("{bytes} B, {in_flight} in flight, {carrier}");
            println!("{figure:<44} {calls:>12.0} {echo:>12.0} {:>8.2}", calls / echo);
        }
    }
    Ok(())
}

/// Runs `one` in so many tasks at once; returns how often it was done in a second.
async fn rate<F, Fut>(in_flight: usize, one: F) -> Result<f64, Failed>
where
    F: Fn(usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Failed>> + Send,
{
    let (one, done) = (Arc::new(one), Arc::new(AtomicU64::new(0)));
    let until = Instant::now() + FOR;
    let tasks: Vec<_> = (0..in_flight)
        .map(|number| {
            let (one, done) = (Arc::clone(&one), Arc::clone(&done));
            tokio::spawn(async move {
                while Instant::now() < until {
                    one(number).await?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<(), Failed>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(done.load(Ordering::Relaxed) as f64 / FOR.as_secs_f64())
}

async fn calls(listen: Multiaddr, bytes: usize, in_flight: usize) -> Result<f64, Failed> {
    let dir = tempfile::tempdir()?;
    let alpha = node("alpha", dir.path(), listen.clone(), Vec::new()).await?;
    let root = new_key(&*RealPlatform.entropy());
    let founds = FoundOptions {
        kind: MeshKind::Open,
        name: "alpha".into(),
    };
    alpha.trust().found(&root, founds).await?;
    alpha.wait_ready().await;
    let beta = node("beta", dir.path(), listen, alpha.addresses()).await?;
    beta.wait_ready().await;
    let services = alpha.handle::<RequestResponse>().ok_or("no request-response")?;
    let mut echo = services.serve(ServiceOptions::new("echo", "1.0.0")).await?;
    alpha.tasks().spawn("echo", async move {
        while let Some(mut call) = echo.next().await {
            let body = std::mem::take(&mut call.body);
            call.answer(Vec::new(), body);
        }
    });
    let handle = beta.handle::<RequestResponse>().ok_or("no request-response")?;
    let calling = handle.clone();
    let call = move |_| {
        let (handle, body) = (calling.clone(), vec![7; bytes]);
        async move {
            handle.call("echo", "", body, CallOptions::default()).await?;
            Ok(())
        }
    };
    // The service has to be known, and the lane to be there.
    let end = Instant::now() + Duration::from_secs(10);
    while call(0).await.is_err() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..20 {
        call(0).await?;
    }
    let per_second = rate(in_flight, call).await?;
    beta.stop().await;
    alpha.stop().await;
    Ok(per_second)
}

async fn node(name: &str, dir: &Path, listen: Multiaddr, bootstrap: Vec<Multiaddr>) -> Result<Node, NodeError> {
    let mesh = MeshConfig {
        listen: vec![listen],
        bootstrap,
        ..MeshConfig::on_loopback(name)
    };
    let options = NodeOptions::new(new_key(&*RealPlatform.entropy()), dir.join(name), mesh);
    Node::builder()
        .pattern(RequestResponse)
        .start(Arc::new(RealPlatform), options)
        .await
}

/// The least that a call could cost: bytes there and back, a connection for each that is in flight.
async fn tcp_echo(bytes: usize, in_flight: usize) -> Result<f64, Failed> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = vec![0; bytes];
                while socket.read_exact(&mut buffer).await.is_ok() && socket.write_all(&buffer).await.is_ok() {}
            });
        }
    });
    let mut sockets = Vec::new();
    for _ in 0..in_flight {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        sockets.push(tokio::sync::Mutex::new((socket, vec![7_u8; bytes])));
    }
    let sockets = Arc::new(sockets);
    rate(in_flight, move |number| {
        let sockets = Arc::clone(&sockets);
        async move {
            let mut guard = sockets[number].lock().await;
            let (socket, buffer) = &mut *guard;
            socket.write_all(buffer).await?;
            socket.read_exact(buffer).await?;
            Ok(())
        }
    })
    .await
}

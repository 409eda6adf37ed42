//! What Zenoh (peer to peer) and gRPC do on this machine, each between two parties in one process over TCP on loopback, as `weft bench` has it:
//!
//!     weft-bench-peers zenoh publish SUBSCRIBERS BYTES    deliveries a second
//!     weft-bench-peers zenoh latency RATE BYTES           microseconds until half of so many messages a second are there
//!     weft-bench-peers zenoh query IN_FLIGHT BYTES        answers a second
//!     weft-bench-peers grpc call IN_FLIGHT BYTES          answers a second
//!     weft-bench-peers etcd put URL IN_FLIGHT BYTES       puts a second that an etcd acknowledges, which runs already
//!
//! prints one number. Neither encrypts or signs.

use std::{
    error::Error,
    net::TcpListener,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

mod etcd;
mod grpc;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How long is counted.
const FOR: Duration = Duration::from_secs(2);
/// Before anything counts.
const WARM_UP: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let figure = match words[..] {
        ["zenoh", "publish", subscribers, bytes] => publish(subscribers.parse()?, bytes.parse()?).await?,
        ["zenoh", "latency", rate, bytes] => latency(rate.parse()?, bytes.parse()?).await?,
        ["zenoh", "query", in_flight, bytes] => query(in_flight.parse()?, bytes.parse()?).await?,
        ["grpc", "call", in_flight, bytes] => grpc::call(in_flight.parse()?, bytes.parse()?).await?,
        ["etcd", "put", url, in_flight, bytes] => etcd::put(url, in_flight.parse()?, bytes.parse()?).await?,
        _ => return Err("zenoh publish|query N BYTES, grpc call N BYTES, or etcd put URL N BYTES".into()),
    };
    println!("{figure}");
    // Sessions take their time to close, and nothing is left to be told.
    std::process::exit(0)
}

fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A peer that listens there, or connects to it, and looks for nobody else.
async fn session(port: u16, listens: bool) -> Outcome<zenoh::Session> {
    let mut config = zenoh::Config::default();
    let endpoint = format!("[\"tcp/127.0.0.1:{port}\"]");
    config.insert_json5("mode", "\"peer\"").map_err(|e| e.to_string())?;
    config
        .insert_json5("scouting/multicast/enabled", "false")
        .map_err(|e| e.to_string())?;
    let (listen, connect) = if listens {
        (endpoint.as_str(), "[]")
    } else {
        ("[]", endpoint.as_str())
    };
    config
        .insert_json5("listen/endpoints", listen)
        .map_err(|e| e.to_string())?;
    config
        .insert_json5("connect/endpoints", connect)
        .map_err(|e| e.to_string())?;
    zenoh::open(config).await
}

/// Deliveries a second from one publisher to so many subscribers, each a peer of its own. What is too much waits: nothing is dropped.
async fn publish(subscribers: usize, bytes: usize) -> Outcome<f64> {
    let port = free_port()?;
    let publisher = session(port, true).await?;
    let delivered = Arc::new(AtomicU64::new(0));
    let mut held = Vec::new();
    for _ in 0..subscribers {
        let session = session(port, false).await?;
        let counted = Arc::clone(&delivered);
        let subscriber = session
            .declare_subscriber("bench/a")
            .callback(move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
            })
            .await?;
        held.push((session, subscriber));
    }
    let publisher = publisher
        .declare_publisher("bench/a")
        .congestion_control(zenoh::qos::CongestionControl::Block)
        .await?;
    while !publisher.matching_status().await?.matching() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(WARM_UP).await;
    let payload = zenoh::bytes::ZBytes::from(vec![7_u8; bytes]);
    let publishing = tokio::spawn(async move {
        loop {
            if publisher.put(payload.clone()).await.is_err() {
                return;
            }
        }
    });
    tokio::time::sleep(WARM_UP).await;
    let (began, before) = (Instant::now(), delivered.load(Ordering::Relaxed));
    tokio::time::sleep(FOR).await;
    let counted = delivered.load(Ordering::Relaxed) - before;
    let took = began.elapsed();
    publishing.abort();
    Ok(counted as f64 / took.as_secs_f64())
}

/// Microseconds until half of the messages, so many a second and evenly, are with a subscriber of another peer.
async fn latency(rate: u32, bytes: usize) -> Outcome<f64> {
    let port = free_port()?;
    let (sender, receiver) = (session(port, true).await?, session(port, false).await?);
    let begun = Instant::now();
    let times = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&times);
    let subscriber = receiver
        .declare_subscriber("bench/a")
        .callback(move |sample| {
            let now_ns = begun.elapsed().as_nanos() as u64;
            let sent = sample.payload().to_bytes();
            let sent_ns = sent.first_chunk().map_or(0, |head| u64::from_be_bytes(*head));
            noted
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(now_ns - sent_ns);
        })
        .await?;
    let publisher = sender.declare_publisher("bench/a").await?;
    while !publisher.matching_status().await?.matching() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(WARM_UP).await;
    let started = Instant::now();
    let count = (FOR.as_secs_f64() * f64::from(rate)) as u64;
    for n in 0..count {
        let due = Duration::from_secs_f64(n as f64 / f64::from(rate));
        // A timer's tick is a millisecond: closer than that it is waited for awake, as `weft bench latency` has it.
        while let Some(left) = due.checked_sub(started.elapsed()) {
            match left.checked_sub(Duration::from_millis(2)) {
                Some(long) => tokio::time::sleep(long).await,
                None => tokio::task::yield_now().await,
            }
        }
        let mut payload = vec![7_u8; bytes.max(8)];
        payload[..8].copy_from_slice(&(begun.elapsed().as_nanos() as u64).to_be_bytes());
        publisher.put(payload).await?;
    }
    tokio::time::sleep(WARM_UP).await;
    drop(subscriber);
    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
    times.sort_unstable();
    let half = times.get(times.len() / 2).copied().ok_or("nothing came")?;
    Ok(half as f64 / 1000.0)
}

/// Answers a second of a queryable to another peer, so many queries under way at once.
async fn query(in_flight: usize, bytes: usize) -> Outcome<f64> {
    let port = free_port()?;
    let answerer = session(port, true).await?;
    let payload = zenoh::bytes::ZBytes::from(vec![7_u8; bytes]);
    let queryable = answerer.declare_queryable("bench/a").await?;
    let answer = payload.clone();
    tokio::spawn(async move {
        while let Ok(query) = queryable.recv_async().await {
            if query.reply("bench/a", answer.clone()).await.is_err() {
                return;
            }
        }
    });
    let asker = Arc::new(session(port, false).await?);
    tokio::time::sleep(WARM_UP).await;
    per_second(in_flight, move || {
        let (asker, payload) = (Arc::clone(&asker), payload.clone());
        async move {
            let replies = asker.get("bench/a").payload(payload).await?;
            while let Ok(reply) = replies.recv_async().await {
                if reply.result().is_ok() {
                    return Ok(());
                }
            }
            Err("no answer".into())
        }
    })
    .await
}

/// Keeps so many of these under way; how many end in a second.
async fn per_second<F>(in_flight: usize, ask: impl Fn() -> F + Clone + Send + 'static) -> Outcome<f64>
where
    F: Future<Output = Outcome<()>> + Send + 'static,
{
    let began = Instant::now();
    let asking = (0..in_flight).map(|_| {
        let ask = ask.clone();
        tokio::spawn(async move {
            let mut answered = 0_u64;
            while began.elapsed() < FOR + WARM_UP {
                ask().await?;
                answered += u64::from(began.elapsed() > WARM_UP);
            }
            Outcome::Ok(answered)
        })
    });
    let answered: Outcome<Vec<u64>> = futures::future::try_join_all(asking).await?.into_iter().collect();
    let answered: u64 = answered?.into_iter().sum();
    Ok(answered as f64 / (began.elapsed() - WARM_UP).as_secs_f64())
}

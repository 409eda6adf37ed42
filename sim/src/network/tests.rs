use std::{cell::Cell, future::Future, rc::Rc};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{
    PeerId, Swarm,
    core::{
        Endpoint, Transport as _,
        transport::{DialOpts, ListenerId, PortUse, TransportEvent},
    },
};

use super::*;
use crate::scenario::Latency;

const MS: Duration = Duration::from_millis(1);

fn plain(ms: u64) -> Link {
    Link {
        latency: Latency::Constant(MS * u32::try_from(ms).unwrap()),
        jitter: Duration::ZERO,
        bandwidth_bits: None,
        loss: 0.0,
        reorder: 0.0,
    }
}

/// Runs on a clock that jumps.
fn virtually<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async { test().await })
}

fn network(nats: &[Nat], link: Link) -> Arc<Network> {
    let network = Network::new(1, nats, Links::new(1, link));
    tokio::task::spawn_local(Arc::clone(&network).run());
    network
}

/// Echoes on a host for as long as the test lasts.
fn echo(network: &Arc<Network>, host: HostId) {
    let mut transport = SimTransport::new(Arc::clone(network), host);
    transport
        .listen_on(ListenerId::next(), network.listen_address(host))
        .unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let event = std::future::poll_fn(|cx| Pin::new(&mut transport).poll(cx)).await;
            if let TransportEvent::Incoming { upgrade, .. } = event {
                let stream = upgrade.await.unwrap();
                tokio::task::spawn_local(async move {
                    let (mut reader, mut writer) = stream.split();
                    let _ = futures::io::copy(&mut reader, &mut writer).await;
                    let _ = writer.close().await;
                });
            }
        }
    });
}

use std::pin::Pin;

async fn dial_with(network: &Arc<Network>, from: HostId, to: Multiaddr, port_use: PortUse) -> io::Result<SimStream> {
    let mut transport = SimTransport::new(Arc::clone(network), from);
    let options = DialOpts {
        role: Endpoint::Dialer,
        port_use,
    };
    transport.dial(to, options).unwrap().await
}

async fn dial(network: &Arc<Network>, from: HostId, to: HostId) -> io::Result<SimStream> {
    dial_with(network, from, network.listen_address(to), PortUse::New).await
}

async fn round_trip(stream: &mut SimStream, data: &[u8]) -> io::Result<Duration> {
    let start = Instant::now();
    stream.write_all(data).await?;
    stream.flush().await?;
    let mut back = vec![0; data.len()];
    stream.read_exact(&mut back).await?;
    assert_eq!(back, data);
    Ok(start.elapsed())
}

#[test]
fn a_stream_is_as_late_as_its_link() {
    virtually(|| async {
        let network = network(&[Nat::None; 2], plain(50));
        echo(&network, 1);
        let start = Instant::now();
        let mut stream = dial(&network, 0, 1).await.unwrap();
        assert_eq!(start.elapsed(), MS * 100);
        assert_eq!(round_trip(&mut stream, b"hello").await.unwrap(), MS * 100);
        stream.close().await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(
            network.traffic(0),
            Traffic {
                bytes_sent: 5,
                bytes_received: 5
            }
        );
    });
}

#[test]
fn much_data_flows_through_a_small_window() {
    virtually(|| async {
        let network = network(&[Nat::None; 2], plain(10));
        echo(&network, 1);
        let mut stream = dial(&network, 0, 1).await.unwrap();
        let data: Vec<u8> = (0..3_000_000_u32).map(|i| ((i * 7) >> 3) as u8).collect();
        let (mut reader, mut writer) = (&mut stream).split();
        let send = async {
            writer.write_all(&data).await.unwrap();
            writer.flush().await.unwrap();
        };
        let mut back = vec![0; data.len()];
        let ((), read) = futures::join!(send, reader.read_exact(&mut back));
        read.unwrap();
        assert!(back == data);
    });
}

#[test]
fn a_wall_delays_what_is_sent_and_a_dial_and_tcp_tries_again() {
    virtually(|| async {
        let network = network(&[Nat::None; 3], plain(10));
        echo(&network, 1);
        let mut stream = dial(&network, 0, 1).await.unwrap();
        let wall = network.add_wall(Wall::OneWay(HostSet::of([0]), HostSet::of([1])));
        assert!(!network.passes(0, 1) && network.passes(1, 0));
        let (at, waiting) = (Rc::new(Cell::new(Duration::ZERO)), Instant::now());
        let done = Rc::clone(&at);
        tokio::task::spawn_local(async move {
            round_trip(&mut stream, b"late").await.unwrap();
            done.set(waiting.elapsed());
        });
        let other = Arc::clone(&network);
        let dialled = tokio::task::spawn_local(async move {
            dial(&other, 0, 1).await.unwrap();
            waiting.elapsed()
        });
        tokio::time::sleep(MS * 5_000).await;
        assert_eq!(at.get(), Duration::ZERO);
        network.remove_wall(wall);
        let dialled = dialled.await.unwrap();
        // A dial is repeated after 1, 3 and 7 seconds, data after 0.2, 0.6, 1.4, 3 and 6.2.
        assert!((MS * 7_000..MS * 7_100).contains(&dialled), "{dialled:?}");
        assert!((MS * 6_200..MS * 6_300).contains(&at.get()), "{:?}", at.get());
    });
}

#[test]
fn who_may_not_be_dialled_is_not_reached() {
    virtually(|| async {
        let nats = [Nat::None, Nat::None, Nat::Restricted, Nat::Symmetric, Nat::FullCone];
        let network = network(&nats, plain(10));
        (1..5).for_each(|host| echo(&network, host));
        let kind = |result: io::Result<SimStream>| result.map(|_| ()).map_err(|e| e.kind());
        // A private address means nothing elsewhere.
        assert_eq!(kind(dial(&network, 0, 2).await), Err(io::ErrorKind::HostUnreachable));
        let nat = |host| address::seen(host, true, PORT);
        assert_eq!(kind(dial_with(&network, 0, nat(4), PortUse::New).await), Ok(()));
        for host in [2, 3] {
            let dial = dial_with(&network, 0, nat(host), PortUse::New);
            assert!(tokio::time::timeout(MS * 60_000, dial).await.is_err(), "host {host}");
        }
        network.restrict_to([(0, 1)]);
        assert_eq!(kind(dial(&network, 0, 1).await), Ok(()));
        assert_eq!(kind(dial(&network, 2, 1).await), Err(io::ErrorKind::HostUnreachable));
        // Nobody listens there.
        let closed = address::seen(1, false, 99);
        assert_eq!(
            kind(dial_with(&network, 0, closed, PortUse::New).await),
            Err(io::ErrorKind::ConnectionRefused)
        );
    });
}

#[test]
fn a_host_without_power_is_silent_and_knows_nothing_afterwards() {
    virtually(|| async {
        let network = network(&[Nat::None; 2], plain(10));
        echo(&network, 1);
        let mut stream = dial(&network, 0, 1).await.unwrap();
        round_trip(&mut stream, b"a").await.unwrap();
        network.power_off(1);
        stream.write_all(b"b").await.unwrap();
        stream.flush().await.unwrap();
        assert!(
            tokio::time::timeout(MS * 10_000, stream.read(&mut [0; 1]))
                .await
                .is_err()
        );
        network.power_on(1);
        stream.write_all(b"c").await.unwrap();
        stream.flush().await.unwrap();
        let error = stream.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    });
}

/// Two swarms that speak Noise and Yamux over the network.
#[test]
fn libp2p_runs_on_it() {
    use libp2p::{core::upgrade::Version, identity::Keypair, noise, ping, swarm::SwarmEvent, yamux};
    virtually(|| async {
        let network = network(&[Nat::None; 2], plain(25));
        let swarm = |host: HostId| {
            let key = Keypair::ed25519_from_bytes([host as u8 + 1; 32]).unwrap();
            let transport = SimTransport::new(Arc::clone(&network), host)
                .upgrade(Version::V1)
                .authenticate(noise::Config::new(&key).unwrap())
                .multiplex(yamux::Config::default())
                .boxed();
            let executor = |future| drop(tokio::task::spawn_local(future));
            let config = libp2p::swarm::Config::with_executor(executor);
            let peer: PeerId = key.public().to_peer_id();
            Swarm::new(transport, ping::Behaviour::default(), peer, config)
        };
        let (mut a, mut b) = (swarm(0), swarm(1));
        b.listen_on(network.listen_address(1)).unwrap();
        tokio::task::spawn_local(async move {
            loop {
                b.select_next_some().await;
            }
        });
        a.dial(network.listen_address(1)).unwrap();
        let rtt = loop {
            if let SwarmEvent::Behaviour(ping::Event { result: Ok(rtt), .. }) = a.select_next_some().await {
                break rtt;
            }
        };
        let _ = rtt;
        assert!(network.trace().events() > 10);
    });
}

use std::time::Duration;

use futures::StreamExt as _;
use libp2p::{
    Swarm, SwarmBuilder,
    multiaddr::Protocol,
    noise, relay,
    swarm::{SwarmEvent, dial_opts::DialOpts},
    tcp, yamux,
};

use super::*;

fn client() -> Swarm<RelayClient> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_, client| RelayClient(client))
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(60)))
        .build()
}

fn server() -> Swarm<relay::Behaviour> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| {
            let config = relay::Config {
                reservation_rate_limiters: Vec::new(),
                ..relay::Config::default()
            };
            let mut relay = relay::Behaviour::new(key.public().to_peer_id(), config);
            relay.set_status(Some(relay::Status::Enable));
            relay
        })
        .unwrap()
        .build()
}

#[tokio::test]
async fn a_place_that_comes_after_it_was_given_up_ends_nothing() {
    let (mut client, mut server) = (client(), server());
    server.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = server.select_next_some().await {
            break address;
        }
    };
    server.add_external_address(address.clone());
    let relay = *server.local_peer_id();
    let (granted, mut grants) = tokio::sync::mpsc::channel(8);
    let serve = async {
        loop {
            if let SwarmEvent::Behaviour(relay::Event::ReservationReqAccepted { .. }) = server.select_next_some().await
            {
                let _ = granted.try_send(());
            }
        }
    };
    let use_it = async {
        client
            .dial(DialOpts::peer_id(relay).addresses(vec![address.clone()]).build())
            .unwrap();
        while !matches!(
            client.select_next_some().await,
            SwarmEvent::ConnectionEstablished { .. }
        ) {}
        for _ in 0..3 {
            let circuit = address.clone().with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
            let listener = client.listen_on(circuit).unwrap();
            // Granted there, and not looked at here yet.
            tokio::select! {
                biased;
                _ = grants.recv() => {}
                () = async { loop { client.select_next_some().await; } } => {}
            }
            client.remove_listener(listener);
            while !matches!(client.select_next_some().await, SwarmEvent::ListenerClosed { .. }) {}
            let soon = tokio::time::sleep(Duration::from_millis(100));
            tokio::select! {
                () = soon => {}
                () = async { loop { client.select_next_some().await; } } => {}
            }
        }
        // It goes on working.
        let circuit = address.clone().with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
        client.listen_on(circuit).unwrap();
        while !matches!(client.select_next_some().await, SwarmEvent::NewListenAddr { .. }) {}
    };
    tokio::select! {
        () = serve => {}
        done = tokio::time::timeout(Duration::from_secs(30), use_it) => done.unwrap(),
    }
}

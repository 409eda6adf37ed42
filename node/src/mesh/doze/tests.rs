use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use either::Either;
use futures::{StreamExt as _, future::poll_fn, task::noop_waker};
use libp2p::{
    Multiaddr, StreamProtocol, Swarm,
    core::{
        UpgradeInfo as _,
        upgrade::{DeniedUpgrade, ReadyUpgrade},
    },
    identify, identity, ping,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, NetworkBehaviour, SubstreamProtocol, SwarmEvent,
        handler::ConnectionEvent,
    },
};

use super::{Doze, handler::DozeHandler};
use crate::testing::PATIENCE;

/// What a test handler has to say, and who is to be told that there is more.
#[derive(Default)]
struct Mailbox {
    mail: VecDeque<usize>,
    waker: Option<Waker>,
}

impl Mailbox {
    fn put(&mut self, mail: usize) {
        self.mail.push_back(mail);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Says what is put into its mailbox, as a handler with a channel does.
#[derive(Default)]
struct Talker {
    mailbox: Arc<Mutex<Mailbox>>,
    polls: Arc<AtomicUsize>,
    /// Swallows odd mail, and says `Pending` then without having seen to it that it is woken, as libp2p's ping does.
    hasty: bool,
    speaks: Option<&'static str>,
}

type Event = ConnectionHandlerEvent<DeniedUpgrade, (), usize>;

impl ConnectionHandler for Talker {
    type FromBehaviour = &'static str;
    type ToBehaviour = usize;
    type InboundProtocol = Either<ReadyUpgrade<StreamProtocol>, DeniedUpgrade>;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        let upgrade = match self.speaks {
            Some(name) => Either::Left(ReadyUpgrade::new(StreamProtocol::new(name))),
            None => Either::Right(DeniedUpgrade),
        };
        SubstreamProtocol::new(upgrade, ()).with_timeout(Duration::from_secs(77))
    }

    fn on_behaviour_event(&mut self, event: &'static str) {
        self.speaks = Some(event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.polls.fetch_add(1, Ordering::SeqCst);
        let mut mailbox = self.mailbox.lock().unwrap();
        match mailbox.mail.pop_front() {
            Some(mail) if self.hasty && mail % 2 == 1 => Poll::Pending,
            Some(mail) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(mail)),
            None => {
                mailbox.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn on_connection_event(&mut self, _: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), ()>) {}
}

fn names(handler: &DozeHandler<Talker>) -> Vec<String> {
    let protocol = handler.listen_protocol();
    assert_eq!(*protocol.timeout(), Duration::from_secs(77));
    protocol
        .upgrade()
        .protocol_info()
        .map(|name| name.to_string())
        .collect()
}

fn poll(handler: &mut DozeHandler<Talker>) -> Poll<Event> {
    handler.poll(&mut Context::from_waker(&noop_waker()))
}

#[test]
fn who_sleeps_is_not_polled_until_something_is_for_it() {
    let talker = Talker::default();
    let (mailbox, polls) = (Arc::clone(&talker.mailbox), Arc::clone(&talker.polls));
    let mut handler = DozeHandler::new(talker, true);
    assert!(poll(&mut handler).is_pending());
    let asleep = polls.load(Ordering::SeqCst);
    for _ in 0..10 {
        assert!(poll(&mut handler).is_pending());
    }
    assert_eq!(polls.load(Ordering::SeqCst), asleep);
    // Without cause now and then, and not more often.
    for _ in 0..320 {
        assert!(poll(&mut handler).is_pending());
    }
    let idle = polls.load(Ordering::SeqCst) - asleep;
    assert!((5..=20).contains(&idle), "{idle}");
    mailbox.lock().unwrap().put(4);
    mailbox.lock().unwrap().put(6);
    for expected in [4, 6] {
        let event = poll(&mut handler);
        assert!(matches!(event, Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(mail)) if mail == expected));
    }
    assert!(poll(&mut handler).is_pending());
}

#[test]
fn protocols_are_those_of_the_handler_at_all_times() {
    for sleeps in [false, true] {
        let mut handler = DozeHandler::new(Talker::default(), sleeps);
        assert!(names(&handler).is_empty());
        handler.on_behaviour_event("/one");
        assert_eq!(names(&handler), ["/one"]);
        assert_eq!(names(&handler), ["/one"]);
        assert!(poll(&mut handler).is_pending());
        handler.on_behaviour_event("/two");
        assert_eq!(names(&handler), ["/two"]);
    }
}

/// All mail that is sent by several threads while the handler falls asleep again and again is said.
#[tokio::test]
async fn no_ring_is_lost() {
    const THREADS: usize = 4;
    const EACH: usize = 20_000;
    let talker = Talker::default();
    let (mailbox, polls) = (Arc::clone(&talker.mailbox), Arc::clone(&talker.polls));
    let mut handler = DozeHandler::new(talker, true);
    let senders: Vec<_> = (0..THREADS)
        .map(|_| {
            let mailbox = Arc::clone(&mailbox);
            std::thread::spawn(move || {
                for mail in 0..EACH {
                    mailbox.lock().unwrap().put(mail);
                    if mail % 7 == 0 {
                        std::thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let expected = THREADS * EACH;
    let all = async {
        for _ in 0..expected {
            poll_fn(|cx| handler.poll(cx)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    assert!(polls.load(Ordering::SeqCst) >= expected);
}

#[tokio::test]
async fn who_says_pending_too_early_is_polled_again() {
    let talker = Talker {
        hasty: true,
        ..Talker::default()
    };
    let mailbox = Arc::clone(&talker.mailbox);
    let mut handler = DozeHandler::new(talker, true);
    assert!(poll(&mut handler).is_pending());
    for mail in [1, 2, 3, 4] {
        mailbox.lock().unwrap().put(mail);
        let event = poll(&mut handler);
        assert_eq!(event.is_ready(), mail % 2 == 0, "{mail}: {event:?}");
    }
}

#[derive(NetworkBehaviour)]
struct Inner {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

#[derive(NetworkBehaviour)]
struct Whole {
    dozing: Doze<Inner>,
}

fn swarm(ping_every: Duration) -> Swarm<Doze<Whole>> {
    libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            Default::default(),
            libp2p::noise::Config::new,
            libp2p::yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|key: &identity::Keypair| {
            let inner = Inner {
                identify: identify::Behaviour::new(identify::Config::new("/test/1".to_owned(), key.public())),
                ping: ping::Behaviour::new(ping::Config::new().with_interval(ping_every)),
            };
            Doze::awake(Whole {
                dozing: Doze::asleep(inner),
            })
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build()
}

/// libp2p's own handlers, between real connections that do nothing else: nobody else wakes them.
#[tokio::test]
async fn handlers_of_libp2p_go_on_working_behind_it() {
    let mut server = swarm(Duration::from_secs(3600));
    server.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let address: Multiaddr = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = server.select_next_some().await {
            break address;
        }
    };
    let serve = async {
        loop {
            if let SwarmEvent::Behaviour(WholeEvent::Dozing(InnerEvent::Identify(identify::Event::Received {
                info,
                ..
            }))) = server.select_next_some().await
            {
                assert!(
                    info.protocols.iter().any(|name| *name == "/ipfs/ping/1.0.0"),
                    "{info:?}"
                );
            }
        }
    };
    let mut client = swarm(Duration::from_millis(20));
    client.dial(address).unwrap();
    let (mut pings, mut identified) = (0, false);
    let exchange = async {
        while pings < 10 || !identified {
            match client.select_next_some().await {
                SwarmEvent::Behaviour(WholeEvent::Dozing(InnerEvent::Ping(ping::Event { result, .. }))) => {
                    result.unwrap();
                    pings += 1;
                }
                SwarmEvent::Behaviour(WholeEvent::Dozing(InnerEvent::Identify(identify::Event::Received {
                    info,
                    ..
                }))) => {
                    identified = true;
                    assert_eq!(info.protocol_version, "/test/1");
                }
                _ => {}
            }
        }
    };
    let both = async {
        tokio::select! {
            biased;
            () = exchange => {}
            () = serve => {}
        }
    };
    tokio::time::timeout(PATIENCE, both).await.unwrap();
}

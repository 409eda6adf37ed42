use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use super::{
    core::{Attempt, Budget, Candidate, Verdict, may_ask_another, nobody, order},
    *,
};
use crate::{
    error::ErrorKind,
    node::Node,
    testing::{address, eventually, member, mesh_config, peers, start},
    trust::MeshKind,
};

fn candidate(rtt_ms: Option<u64>) -> Candidate {
    Candidate {
        is_local: false,
        is_connected: true,
        same_zone: true,
        rtt: rtt_ms.map(Duration::from_millis),
        service_time: Duration::ZERO,
        load: 0,
        in_flight: 0,
        verdict: Verdict::Good,
    }
}

#[test]
fn the_near_is_asked_before_the_far() {
    let here = Candidate {
        is_local: true,
        ..candidate(None)
    };
    let elsewhere = Candidate {
        same_zone: false,
        ..candidate(Some(1))
    };
    let away = Candidate {
        is_connected: false,
        ..candidate(None)
    };
    let all = [away, elsewhere, candidate(Some(5)), here];
    for dice in [0, 1, 2, u64::MAX, 7 << 32] {
        assert_eq!(order(&all, dice), [3, 2, 1, 0]);
    }
}

#[test]
fn of_two_drawn_the_less_busy_is_asked_and_all_are_drawn() {
    let busy = Candidate {
        load: 700,
        ..candidate(Some(5))
    };
    assert!(
        [0, 1]
            .iter()
            .all(|dice| order(&[busy, candidate(Some(5))], *dice)[0] == 1)
    );
    let alike = [candidate(Some(5)); 4];
    let mut firsts = std::collections::BTreeSet::new();
    for dice in 0..16 {
        let order = order(&alike, (dice << 32) | dice);
        firsts.insert(order[0]);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3], "each is asked once");
    }
    assert_eq!(firsts.len(), 4);
    // The worst of all is never the better one of two.
    let worst = Candidate {
        in_flight: 60,
        ..candidate(Some(50))
    };
    let all = [candidate(Some(5)), candidate(Some(5)), worst];
    assert!((0..64).all(|dice| order(&all, (dice << 32) | (dice * 31))[0] != 2));
}

#[test]
fn a_full_zone_spills_over_and_what_fails_is_left_alone() {
    let full = Candidate {
        load: 900,
        ..candidate(Some(1))
    };
    let elsewhere = Candidate {
        same_zone: false,
        ..candidate(Some(80))
    };
    assert_eq!(order(&[full, elsewhere], 0), [1, 0]);
    assert_eq!(
        order(&[full, Candidate { load: 900, ..elsewhere }], 0),
        [0, 1],
        "all are full"
    );
    let broken = Candidate {
        verdict: Verdict::Open,
        ..candidate(Some(1))
    };
    let outlier = Candidate {
        verdict: Verdict::Outlier,
        ..candidate(Some(1))
    };
    assert_eq!(order(&[broken, outlier, elsewhere], 0), [2, 1]);
    assert_eq!(order(&[broken], 0), [0; 0]);
    assert_eq!(order(&[], 0), [0; 0]);
}

#[test]
fn further_tries_are_a_tenth_of_the_calls() {
    let mut budget = Budget::new();
    while budget.spend() {}
    let calls = 1000;
    let tries = (0..calls)
        .filter(|_| {
            budget.earn();
            budget.spend()
        })
        .count();
    assert_eq!(tries, calls / 10);
}

#[test]
fn nobody_is_asked_twice_for_what_may_have_been_done() {
    assert!(!may_ask_another(Attempt::Seen));
    assert!(may_ask_another(Attempt::NotSeen(ErrorKind::Unreachable)));
    assert!(may_ask_another(Attempt::NotSeen(ErrorKind::Busy)));
    assert!(!may_ask_another(Attempt::NotSeen(ErrorKind::Denied)));
    assert_eq!(nobody(&[]), ErrorKind::NotFound);
    assert_eq!(nobody(&[ErrorKind::Busy, ErrorKind::Busy]), ErrorKind::Busy);
    assert_eq!(
        nobody(&[ErrorKind::Busy, ErrorKind::Unreachable]),
        ErrorKind::Unreachable
    );
}

async fn pair() -> (Node, Node) {
    let a = start(
        Node::builder().pattern(RequestResponse),
        1,
        mesh_config("a", vec![], "tcp"),
        Some(MeshKind::Open),
    )
    .await;
    let config = mesh_config("b", vec![address(&a)], "tcp");
    let b = start(Node::builder().pattern(RequestResponse), 2, config, None).await;
    member(&b).await;
    peers(&b, 1).await;
    (a, b)
}

fn service(name: &str) -> ServiceOptions {
    ServiceOptions::new(name, "1.0.0")
}

fn idempotent(name: &str) -> ServiceOptions {
    ServiceOptions {
        endpoints: vec![EndpointOptions {
            idempotent: true,
            ..EndpointOptions::new("default")
        }],
        ..service(name)
    }
}

fn handles(a: &Node, b: &Node) -> (RequestResponseHandle, RequestResponseHandle) {
    (
        a.handle::<RequestResponse>().unwrap(),
        b.handle::<RequestResponse>().unwrap(),
    )
}

async fn stats_of(
    handle: &RequestResponseHandle,
    service: &str,
) -> weft_protocol::patterns::request_response::InstanceStats {
    let mut told = handle.stats(service, Duration::from_secs(10)).await;
    told.remove(0).answer.unwrap()
}

/// Answers every call of a service with these words, counting them.
fn answering(node: &Node, mut serving: Serving, words: &'static [u8]) -> Arc<AtomicU32> {
    let served = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&served);
    node.tasks().spawn("test-service", async move {
        while let Some(call) = serving.next().await {
            counted.fetch_add(1, Ordering::Relaxed);
            call.answer(Vec::new(), words.to_vec());
        }
    });
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_answered_failed_timed_out_or_told_that_nobody_is_there() {
    let (a, b) = pair().await;
    let (offering, calling) = handles(&a, &b);
    let mut serving = offering.serve(service("greet")).await.unwrap();
    #[allow(clippy::disallowed_methods)]
    let server = tokio::spawn(async move {
        while let Some(call) = serving.next().await {
            match call.body.as_slice() {
                b"fail" => call.fail(7, "as asked"),
                b"sleep" => std::mem::forget(call),
                body => {
                    let answer = [b"hello ", body].concat();
                    call.answer(vec![("kind".into(), "greeting".into())], answer);
                }
            }
        }
    });
    eventually("b knows the service", || !calling.services().is_empty()).await;
    let answer = calling
        .call("greet", "", b"world".to_vec(), CallOptions::default())
        .await
        .unwrap();
    assert_eq!(answer.body, b"hello world");
    assert_eq!(answer.headers, [("kind".to_owned(), "greeting".to_owned())]);
    assert_eq!(answer.node, a.mesh().local_peer());
    let big = vec![7; 1 << 20];
    assert!(
        calling
            .call("greet", "", big[..big.len() - 6].to_vec(), CallOptions::default())
            .await
            .is_ok()
    );
    let too_big = calling
        .call("greet", "", vec![7; (1 << 20) + 1], CallOptions::default())
        .await;
    assert!(matches!(too_big, Err(CallError::Invalid(_))));
    let failed = calling
        .call("greet", "", b"fail".to_vec(), CallOptions::default())
        .await;
    assert!(matches!(failed, Err(CallError::Failed { code: 7, .. })), "{failed:?}");
    let short = CallOptions {
        timeout: Duration::from_millis(300),
        ..CallOptions::default()
    };
    let slow = calling.call("greet", "", b"sleep".to_vec(), short).await;
    assert!(matches!(slow, Err(CallError::Timeout(_))), "{slow:?}");
    let none = calling.call("nothing", "", vec![], CallOptions::default()).await;
    assert!(matches!(none, Err(CallError::NoneKnown(_))), "{none:?}");
    let bad = calling.call("not a name", "", vec![], CallOptions::default()).await;
    assert!(matches!(bad, Err(CallError::Invalid(_))), "{bad:?}");
    // The same without the network.
    assert_eq!(
        offering
            .call("greet", "", b"me".to_vec(), CallOptions::default())
            .await
            .unwrap()
            .body,
        b"hello me"
    );
    server.abort();
    eventually("b knows it is withdrawn", || calling.services().is_empty()).await;
    drop((a, b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_known_but_gone_is_said_to_be_unreachable() {
    let (a, b) = pair().await;
    let serving = a
        .handle::<RequestResponse>()
        .unwrap()
        .serve(service("greet"))
        .await
        .unwrap();
    let calling = b.handle::<RequestResponse>().unwrap();
    eventually("b knows the service", || !calling.services().is_empty()).await;
    a.stop().await;
    drop(serving);
    eventually("b notices", || b.mesh().peers().is_empty()).await;
    let gone = calling.call("greet", "", vec![], CallOptions::default()).await;
    assert!(matches!(gone, Err(CallError::Unreachable { .. })), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_nobody_waits_for_is_cancelled_where_it_is_served() {
    let (a, b) = pair().await;
    let (offering, calling) = handles(&a, &b);
    let mut serving = offering.serve(service("slow")).await.unwrap();
    eventually("b knows the service", || !calling.services().is_empty()).await;
    // The first call to a peer takes another way than those that follow.
    for turn in ["the first", "the next", "a third"] {
        let call = calling.call("slow", "", turn.into(), CallOptions::default());
        let incoming = tokio::select! {
            biased;
            incoming = serving.next() => incoming.unwrap(),
            ended = call => panic!("{turn} call ended: {ended:?}"),
        };
        let token = incoming.token();
        assert!(!token.is_cancelled());
        tokio::time::timeout(Duration::from_secs(10), token.cancelled())
            .await
            .expect(turn);
        drop(incoming);
    }
    // At its deadline too, with nobody telling.
    let short = CallOptions {
        timeout: Duration::from_millis(200),
        ..CallOptions::default()
    };
    let (ended, cancelled) = tokio::join!(calling.call("slow", "", vec![], short), async {
        let incoming = serving.next().await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), incoming.token().cancelled()).await
    });
    assert!(matches!(ended, Err(CallError::Timeout(_))), "{ended:?}");
    assert!(cancelled.is_ok());
    let stats = stats_of(&calling, "slow").await;
    let endpoint = &stats.endpoints[0];
    assert_eq!(
        (endpoint.requests, endpoint.abandoned, endpoint.in_flight),
        (4, 4, 0),
        "{stats:?}"
    );
    drop((a, b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_is_served_once() {
    let (a, b) = pair().await;
    let (offering, calling) = handles(&a, &b);
    let mut serving = offering.serve(service("pay")).await.unwrap();
    eventually("b knows the service", || !calling.services().is_empty()).await;
    let keyed = || CallOptions {
        idempotency_key: Some("order-1".into()),
        ..CallOptions::default()
    };
    // The caller goes, the call does not.
    let call = calling.call("pay", "", b"10".to_vec(), keyed());
    let incoming = tokio::select! {
        biased;
        incoming = serving.next() => incoming.unwrap(),
        ended = call => panic!("{ended:?}"),
    };
    let again = calling.call("pay", "", b"10".to_vec(), keyed());
    let twin = calling.call("pay", "", b"10".to_vec(), keyed());
    let serve = async {
        assert!(!incoming.token().is_cancelled());
        incoming.answer(Vec::new(), b"paid".to_vec());
        // Nothing else comes.
        tokio::select! {
            biased;
            other = serving.next() => panic!("served twice: {other:?}"),
            both = async { tokio::join!(again, twin) } => both,
        }
    };
    let (again, twin) = Box::pin(serve).await;
    assert_eq!(
        (again.unwrap().body, twin.unwrap().body),
        (b"paid".to_vec(), b"paid".to_vec())
    );
    let other = calling.call("pay", "", b"20".to_vec(), keyed()).await;
    assert!(matches!(other, Err(CallError::Failed { code: 422, .. })), "{other:?}");
    drop((a, b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_instances_and_groups_choose_and_a_drained_instance_takes_nothing_new() {
    let (a, b) = pair().await;
    let (offering, calling) = handles(&a, &b);
    let options = |version: &str| ServiceOptions {
        endpoints: vec![EndpointOptions::new("admin.reset"), EndpointOptions::new("default")],
        ..ServiceOptions::new("stock", version)
    };
    let old = offering.serve(options("1.4.0")).await.unwrap();
    let old_id = old.id.clone();
    answering(&a, old, b"old");
    answering(&a, offering.serve(options("2.0.1")).await.unwrap(), b"new");
    eventually("b knows both", || calling.services().len() == 2).await;
    let version = |version: &str| CallOptions {
        version: Some(version.into()),
        ..CallOptions::default()
    };
    let body = |answer: Result<CallAnswer, CallError>| String::from_utf8(answer.unwrap().body).unwrap();
    for _ in 0..4 {
        assert_eq!(body(calling.call("stock", "", vec![], version("^1.2")).await), "old");
        assert_eq!(
            body(calling.call("stock", "admin.reset", vec![], version("2")).await),
            "new"
        );
        assert_eq!(body(offering.call("stock", "", vec![], version("<2")).await), "old");
    }
    let none = calling.call("stock", "", vec![], version("^3")).await;
    assert!(
        matches!(&none, Err(CallError::NoneKnown(what)) if what == "stock@^3"),
        "{none:?}"
    );
    let bad = calling.call("stock", "", vec![], version("one")).await;
    assert!(matches!(bad, Err(CallError::Invalid(_))), "{bad:?}");
    let one = || CallOptions {
        instance: Some(old_id.clone()),
        ..CallOptions::default()
    };
    assert_eq!(body(calling.call("stock", "", vec![], one()).await), "old");
    assert_eq!(
        calling
            .ping("stock", Duration::from_secs(10))
            .await
            .iter()
            .filter(|t| t.answer.is_ok())
            .count(),
        2
    );
    assert_eq!(
        offering.drain("stock", Some(&old_id)).await,
        *std::slice::from_ref(&old_id)
    );
    let gone = calling.call("stock", "", vec![], one()).await;
    assert!(matches!(gone, Err(CallError::NoneKnown(_))), "{gone:?}");
    assert_eq!(
        body(calling.call("stock", "", vec![], CallOptions::default()).await),
        "new"
    );
    eventually("the drained one has left", || calling.services().len() == 1).await;
    drop((a, b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_is_turned_away_at_once_with_a_time_to_come_back() {
    let (a, b) = pair().await;
    let (offering, calling) = handles(&a, &b);
    let mut serving = offering
        .serve(ServiceOptions {
            concurrency: 1,
            ..service("narrow")
        })
        .await
        .unwrap();
    eventually("b knows the service", || !calling.services().is_empty()).await;
    let patient = || CallOptions {
        timeout: Duration::from_secs(60),
        retries: 0,
        ..CallOptions::default()
    };
    let filling: Vec<_> = (0..registry::SERVICE_QUEUE_MAX)
        .map(|_| {
            let calling = calling.clone();
            let options = patient();
            #[allow(clippy::disallowed_methods)]
            tokio::spawn(async move { calling.call("narrow", "", vec![], options).await })
        })
        .collect();
    let full = registry::SERVICE_QUEUE_MAX as u32;
    while stats_of(&offering, "narrow").await.in_flight < full {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let more = calling.call("narrow", "", vec![], patient()).await;
    assert!(
        matches!(&more, Err(CallError::AllBusy { retry_after: Some(pause), .. }) if !pause.is_zero()),
        "{more:?}"
    );
    // Those that wait are served; who was turned away comes back after the pause, and is too.
    let retry = calling.call("narrow", "", vec![], CallOptions::default());
    let serve = async {
        let rejected = || async { stats_of(&offering, "narrow").await.endpoints[0].rejected };
        while rejected().await < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..full + 1 {
            serving.next().await.unwrap().answer(Vec::new(), Vec::new());
        }
    };
    let (retried, ()) = tokio::join!(retry, serve);
    assert!(retried.unwrap().attempts > 1);
    for call in filling {
        assert!(call.await.unwrap().is_ok());
    }
    drop((a, b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_is_asked_when_the_first_is_slow_and_the_first_is_told() {
    let (a, b) = pair().await;
    let (offering, calling) = handles(&a, &b);
    // Nobody answers here: `Serving` is kept and not asked.
    let mut stuck = calling.serve(idempotent("search")).await.unwrap();
    let served = answering(&a, offering.serve(idempotent("search")).await.unwrap(), b"found");
    eventually("b knows both", || calling.services().len() == 2).await;
    let hedged = || CallOptions {
        hedge_after: Some(Duration::from_millis(20)),
        ..CallOptions::default()
    };
    let answer = calling.call("search", "", b"fish".to_vec(), hedged()).await.unwrap();
    assert_eq!((answer.body.as_slice(), answer.attempts), (&b"found"[..], 2));
    assert_eq!(served.load(Ordering::Relaxed), 1);
    let loser = stuck.next().await.unwrap();
    assert!(loser.token().is_cancelled());
    // What may not be called twice is not.
    answering(&a, offering.serve(service("pay")).await.unwrap(), b"paid");
    eventually("b knows it", || !calling.instances("pay").is_empty()).await;
    let refused = calling.call("pay", "", vec![], hedged()).await;
    assert!(matches!(refused, Err(CallError::Invalid(_))), "{refused:?}");
    drop((a, b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_fails_again_and_again_is_left_alone_for_a_while() {
    let (a, b) = pair().await;
    let (offering, calling) = handles(&a, &b);
    let mut serving = offering.serve(service("gone")).await.unwrap();
    let mutes = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let mute = Arc::clone(&mutes);
    a.tasks().spawn("test-service", async move {
        // Taken and dropped: the caller cannot know whether it was served.
        while let Some(call) = serving.next().await {
            if !mute.load(Ordering::Relaxed) {
                call.answer(Vec::new(), Vec::new());
            }
        }
    });
    eventually("b knows the service", || !calling.services().is_empty()).await;
    for _ in 0..health::FAILURES_IN_A_ROW {
        let failed = calling.call("gone", "", vec![], CallOptions::default()).await;
        assert!(matches!(failed, Err(CallError::Unknown { .. })), "{failed:?}");
    }
    let refused = calling.call("gone", "", vec![], CallOptions::default()).await;
    assert!(
        matches!(&refused, Err(CallError::Unreachable { detail, .. }) if detail.contains("again and again")),
        "{refused:?}"
    );
    assert!(calling.services()[0].open_for.is_some());
    mutes.store(false, Ordering::Relaxed);
    eventually("the breaker lets one through", || {
        calling.services()[0].open_for.is_none()
    })
    .await;
    assert!(calling.call("gone", "", vec![], CallOptions::default()).await.is_ok());
    drop((a, b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_never_answers_is_left_alone_too() {
    let (a, b) = pair().await;
    let (offering, calling) = handles(&a, &b);
    let _mute = offering.serve(service("mute")).await.unwrap();
    eventually("b knows the service", || !calling.services().is_empty()).await;
    let short = || CallOptions {
        timeout: Duration::from_millis(100),
        ..CallOptions::default()
    };
    for _ in 0..health::FAILURES_IN_A_ROW {
        let late = calling.call("mute", "", vec![], short()).await;
        assert!(matches!(late, Err(CallError::Timeout(_))), "{late:?}");
    }
    let refused = calling.call("mute", "", vec![], short()).await;
    assert!(matches!(refused, Err(CallError::Unreachable { .. })), "{refused:?}");
    drop((a, b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_flow_both_ways_at_once_and_only_as_fast_as_they_are_read() {
    let (a, b) = pair().await;
    let (offering, calling) = handles(&a, &b);
    let mut serving = offering
        .serve(ServiceOptions {
            takes_streams: true,
            ..service("upper")
        })
        .await
        .unwrap();
    a.tasks().spawn("test-service", async move {
        while let Some(mut call) = serving.next().await {
            let mut input = call.take_body();
            let mut output = call.stream(vec![("kind".into(), "upper".into())]);
            while let Ok(Some(part)) = input.next().await {
                if part.starts_with(b"!") {
                    return output.fail(7, "as asked").await;
                }
                if output.send(part.to_ascii_uppercase().into()).await.is_err() {
                    break;
                }
            }
            let _ = output.finish().await;
        }
    });
    eventually("b knows the service", || !calling.services().is_empty()).await;
    for handle in [&calling, &offering] {
        let (mut writer, reader) = body();
        let mut answer = handle
            .call_stream("upper", "", reader, CallOptions::default())
            .await
            .unwrap();
        assert_eq!(answer.headers, [("kind".to_owned(), "upper".to_owned())]);
        // Each part is answered before the next is sent.
        for word in ["one", "two"] {
            writer.send(word.into()).await.unwrap();
            let part = answer.body.next().await.unwrap().unwrap();
            assert_eq!(part, word.to_ascii_uppercase());
        }
        // Nobody reads: the writer comes to a stop.
        let big = vec![b'x'; 64 << 20];
        let flooding = writer.send(big.into());
        assert!(
            tokio::time::timeout(Duration::from_millis(500), flooding)
                .await
                .is_err()
        );
        drop(answer);
        // And hears it when nobody will.
        tokio::time::timeout(Duration::from_secs(10), writer.unread())
            .await
            .unwrap();
        // Called as usual it answers as usual.
        let whole = handle
            .call("upper", "", b"small".to_vec(), CallOptions::default())
            .await;
        assert_eq!(whole.unwrap().body, b"SMALL");
    }
    let (mut writer, reader) = body();
    let mut answer = calling
        .call_stream("upper", "", reader, CallOptions::default())
        .await
        .unwrap();
    writer.send("!".into()).await.unwrap();
    let failed = answer.body.next().await;
    assert!(matches!(failed, Err(BodyError::Failed { code: 7, .. })), "{failed:?}");
    drop((a, b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_is_asked_and_the_silent_are_not_waited_for() {
    let (a, b) = pair().await;
    let (offering, calling) = handles(&a, &b);
    for words in [&b"one"[..], b"two"] {
        answering(&a, offering.serve(service("who")).await.unwrap(), words);
    }
    answering(&b, calling.serve(service("who")).await.unwrap(), b"three");
    let _mute = calling.serve(service("who")).await.unwrap();
    eventually("b knows all", || calling.services().len() == 4).await;
    let gather = GatherOptions {
        stall: Some(Duration::from_millis(500)),
        ..GatherOptions::default()
    };
    let (sink, mut answers) = tokio::sync::mpsc::channel(8);
    let options = CallOptions::default();
    let count = calling
        .call_all("who", "", b"?", &options, &gather, sink)
        .await
        .unwrap();
    assert_eq!(count, 3);
    let mut said = Vec::new();
    while let Some(gathered) = answers.recv().await {
        said.push(gathered.answer.unwrap().body);
    }
    said.sort();
    assert_eq!(said, [b"one".to_vec(), b"three".to_vec(), b"two".to_vec()]);
    let (sink, _answers) = tokio::sync::mpsc::channel(8);
    let one = GatherOptions {
        answers_max: Some(1),
        ..GatherOptions::default()
    };
    assert_eq!(
        calling.call_all("who", "", b"?", &options, &one, sink).await.unwrap(),
        1
    );
    drop((a, b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_is_announced_by_its_hash_and_told_to_who_asks() {
    let (a, b) = pair().await;
    let (offering, calling) = handles(&a, &b);
    let serving = offering.serve(service("orders")).await.unwrap();
    for (endpoint, wrong) in [("default", "no JSON"), ("default", "[1]"), ("other", "{}")] {
        assert!(
            serving.set_schema(endpoint, wrong.into()).await.is_err(),
            "{endpoint} {wrong}"
        );
    }
    serving
        .set_schema("default", r#"{"type":"object"}"#.into())
        .await
        .unwrap();
    let hash = || {
        calling
            .services()
            .first()
            .and_then(|i| i.info.endpoints[0].schema_sha256)
    };
    eventually("b knows the schema's hash", || hash().is_some()).await;
    let schemas = calling
        .schemas("orders", Duration::from_secs(10))
        .await
        .remove(0)
        .answer
        .unwrap();
    assert_eq!(schemas.endpoints[0].schema, r#"{"type":"object"}"#);
    drop((a, b));
}

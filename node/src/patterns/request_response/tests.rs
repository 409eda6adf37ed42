use std::time::Duration;

use weft_protocol::PeerId;

use super::{
    core::{Attempt, Candidate, may_ask_another, nobody, order},
    *,
};
use crate::{
    error::ErrorKind,
    node::Node,
    testing::{address, eventually, member, mesh_config, peers, start},
    trust::MeshKind,
};

fn candidate(is_local: bool, is_connected: bool, rtt_ms: Option<u64>) -> Candidate {
    Candidate {
        peer: PeerId::random(),
        is_local,
        is_connected,
        rtt: rtt_ms.map(Duration::from_millis),
    }
}

#[test]
fn the_nearest_is_asked_first() {
    let (far, near, unknown) = (
        candidate(false, true, Some(50)),
        candidate(false, true, Some(5)),
        candidate(false, true, None),
    );
    let (away, here) = (candidate(false, false, None), candidate(true, true, None));
    let ordered = order(vec![away, far, unknown, near, here]);
    assert_eq!(ordered, [here.peer, near.peer, far.peer, unknown.peer, away.peer]);
    assert_eq!(
        order(vec![near, near]).len(),
        1,
        "two instances on one node are asked once"
    );
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
    ServiceOptions {
        name: name.into(),
        version: "1.0.0".into(),
        endpoints: vec![],
        metadata: vec![],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_answered_failed_timed_out_or_told_that_nobody_is_there() {
    let (a, b) = pair().await;
    let (offering, calling) = (
        a.handle::<RequestResponse>().unwrap(),
        b.handle::<RequestResponse>().unwrap(),
    );
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

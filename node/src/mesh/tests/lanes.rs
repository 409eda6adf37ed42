//! Requests share a lane, and lanes take the better connection.

use super::*;
use crate::mesh::Carrier;

const WITHIN: Duration = Duration::from_secs(20);

async fn ask(from: &Node, to: PeerId, body: Vec<u8>) -> Result<Vec<u8>, MeshError> {
    from.mesh().request(to, hello(from), body, WITHIN).await
}

fn has_lane(node: &Node, peer: &PeerId) -> bool {
    node.mesh().inner.lanes.get(peer).is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_first_request_a_lane_carries_the_others() {
    let (a, b, seen) = pair("quic").await;
    let target = a.mesh().local_peer();
    assert_eq!(ask(&b, target, b"first".to_vec()).await.unwrap(), b"first");
    eventually("a lane to a", || has_lane(&b, &target)).await;
    assert!(!has_lane(&a, &b.mesh().local_peer()), "who asks nothing needs none");
    // More at once than a lane holds, large and small mixed: each gets its own answer.
    let bodies: Vec<Vec<u8>> = (0..600_usize).map(|n| vec![n as u8; 1 + n % 7 * 10_000]).collect();
    let answers = join_all(bodies.iter().map(|body| ask(&b, target, body.clone()))).await;
    for (body, answer) in bodies.iter().zip(answers) {
        assert!(answer.unwrap() == *body);
    }
    assert_eq!(seen.load(Ordering::SeqCst), 601, "each was served once");
    // The other side goes: what follows is refused, not waited for.
    assert!(a.stop().await);
    let error = ask(&b, target, b"late".to_vec()).await.unwrap_err();
    assert!(
        matches!(
            error,
            MeshError::Broken { .. } | MeshError::Open(_) | MeshError::Refused { .. }
        ),
        "{error:?}"
    );
    assert!(b.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_nobody_waits_for_holds_no_place_on_the_lane() {
    let (a, b, _) = pair("tcp").await;
    let target = a.mesh().local_peer();
    ask(&b, target, vec![0]).await.unwrap();
    eventually("a lane to a", || has_lane(&b, &target)).await;
    for _ in 0..10 {
        // Dropped after it was sent and before its answer comes.
        let many = join_all((0..200).map(|_| ask(&b, target, vec![1; 50_000])));
        let _ = tokio::time::timeout(Duration::from_millis(1), many).await;
    }
    assert_eq!(ask(&b, target, vec![2]).await.unwrap(), [2]);
    assert!(b.stop().await);
    assert!(a.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_time_is_over_is_not_sent() {
    let (a, b, seen) = pair("tcp").await;
    let target = a.mesh().local_peer();
    ask(&b, target, vec![0]).await.unwrap();
    eventually("a lane to a", || has_lane(&b, &target)).await;
    let late = b.mesh().request(target, hello(&b), vec![1], Duration::ZERO).await;
    assert!(matches!(late, Err(MeshError::Timeout { .. })), "{late:?}");
    // What comes behind it on the lane is served after it.
    ask(&b, target, vec![2]).await.unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 2);
    assert!(b.stop().await);
    assert!(a.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_that_panics_over_a_request_takes_no_other_with_it() {
    let (a, b, _) = pair("tcp").await;
    let target = a.mesh().local_peer();
    ask(&b, target, vec![0]).await.unwrap();
    eventually("a lane to a", || has_lane(&b, &target)).await;
    let bodies: Vec<Vec<u8>> = (0..100_u8).map(|n| vec![n; 20_000]).collect();
    let others = join_all(bodies.iter().map(|body| ask(&b, target, body.clone())));
    let (broken, others) = tokio::join!(ask(&b, target, BREAKS_DOWN.to_vec()), others);
    let refused = matches!(
        &broken,
        Err(MeshError::Refused {
            reason: Refusal::Closing,
            ..
        })
    );
    assert!(refused, "{broken:?}");
    for (body, answer) in bodies.iter().zip(others) {
        assert!(answer.unwrap() == *body);
    }
    assert!(has_lane(&b, &target), "the lane goes on");
    assert_eq!(a.tasks().panics(), 1, "it is told like that of a task");
    assert!(b.stop().await);
    assert!(a.stop().await);
}

/// It takes streams, and no requests.
struct StreamsOnly;

impl Pattern for StreamsOnly {
    const ID: &'static str = "echo";
    type Handle = ();

    async fn start(self, context: Context) -> Result<(), NodeError> {
        let mut streams = context.doors.streams;
        context
            .tasks
            .spawn("streams-only", async move { while streams.recv().await.is_some() {} });
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_that_takes_no_requests_says_so_at_once() {
    let config = mesh_config("n1", Vec::new(), "tcp");
    let a = start(Node::builder().pattern(StreamsOnly), 1, config, Some(MeshKind::Open)).await;
    let (b, _) = node(2, vec![address(&a)], false, "tcp").await;
    peers(&b, 1).await;
    // Had it been waited for, the answer would be that the time is over.
    let refused = ask(&b, a.mesh().local_peer(), vec![0]).await;
    let unknown = matches!(
        &refused,
        Err(MeshError::Refused {
            reason: Refusal::Unknown,
            ..
        })
    );
    assert!(unknown, "{refused:?}");
    assert!(b.stop().await);
    assert!(a.stop().await);
}

/// A node that listens on QUIC and TCP.
async fn both(seed: u8, bootstrap: Vec<weft_protocol::Multiaddr>, found: bool) -> Node {
    let mut config = mesh_config(&format!("n{seed}"), bootstrap, "quic");
    config.listen.push("/ip4/127.0.0.1/tcp/0".parse().unwrap());
    let echo = Echo {
        seen: Arc::default(),
        hold: false,
    };
    let found = found.then_some(MeshKind::Open);
    start(Node::builder().pattern(echo), seed, config, found).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_much_is_exchanged_both_carriers_are_measured_and_the_better_is_taken() {
    let a = both(1, Vec::new(), true).await;
    let quic = a.addresses().into_iter().find(|at| Carrier::of(at) == Carrier::Quic);
    let b = both(2, quic.into_iter().collect(), false).await;
    member(&b).await;
    peers(&b, 1).await;
    let target = a.mesh().local_peer();
    let carriers = |node: &Node, peer: &PeerId| -> Vec<(Carrier, bool, bool)> {
        let info = node.mesh().peers().get(peer).unwrap_or_default();
        let of = |(id, c): (_, &crate::mesh::ConnectionInfo)| {
            (c.carrier, c.goodput_bytes_per_s.is_some(), info.preferred == Some(id))
        };
        info.connections.iter().map(|(id, c)| of((*id, c))).collect()
    };
    assert_eq!(carriers(&b, &target).len(), 1, "one connection is enough for little");
    let measured = |node: &Node, peer: &PeerId| {
        let all = carriers(node, peer);
        let has = |carrier| all.iter().any(|(c, measured, _)| *c == carrier && *measured);
        has(Carrier::Quic) && has(Carrier::Tcp)
    };
    let traffic = async {
        while !measured(&b, &target) {
            let _ = ask(&b, target, vec![7; 200_000]).await;
        }
    };
    tokio::time::timeout(PATIENCE, traffic)
        .await
        .expect("both carriers are measured");
    eventually("one is preferred", || {
        carriers(&b, &target)
            .iter()
            .filter(|(_, _, preferred)| *preferred)
            .count()
            == 1
    })
    .await;
    // The lane is on it.
    ask(&b, target, vec![1]).await.unwrap();
    eventually("the lane is on the preferred one", || {
        let preferred = b.mesh().peers().get(&target).and_then(|info| info.preferred);
        preferred.is_some() && b.mesh().inner.lanes.connection(&target) == preferred
    })
    .await;
    assert!(b.stop().await);
    assert!(a.stop().await);
}

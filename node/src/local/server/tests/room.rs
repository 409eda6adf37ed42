//! More connections than there is room for.

use super::*;

/// On several threads: who makes room is gone from the list before its place is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn idle_connections_make_room_and_never_grow_beyond_the_limit() {
    let server = start(&config(), router()).await;
    let flood = usize::try_from(process::sample().unwrap().max_fds.min(8000) / 4).unwrap();
    let mut idle = Vec::new();
    for number in 0..flood {
        idle.push(server.connect().await);
        if number % 400 == 0 {
            assert!(server.is_alive().await, "after {number} idle connections");
        }
    }
    assert!(server.is_alive().await);
    // All but as many as there may be had to go.
    let evicted = server.dropped.get(QUEUE, "evicted");
    assert!(evicted >= flood as u64 - 16, "{evicted} of {flood}");
    assert_eq!(server.dropped.get(QUEUE, "full"), 0);
}

#[tokio::test]
async fn when_all_are_busy_a_newcomer_is_told_so() {
    let server = start(
        &ApiConfig {
            connections_max: 2,
            ..config()
        },
        router(),
    )
    .await;
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect().await;
        stream
            .write_all(b"GET /forever HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        busy.push(stream);
    }
    let answer = ask(&server, "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let problem = problem_in(&answer);
    assert_eq!(
        (
            problem["status"].as_u64(),
            problem["kind"].as_str(),
            problem["retryable"].as_bool()
        ),
        (Some(503), Some("busy"), Some(true))
    );
    assert!(answer.contains("retry-after: 1"));
    assert_eq!(server.dropped.get(QUEUE, "full"), 1);
    drop(busy.pop());
    let deadline = Instant::now() + PATIENCE;
    while !server.is_alive().await {
        assert!(
            Instant::now() < deadline,
            "the place of a client that left must become free"
        );
    }
}

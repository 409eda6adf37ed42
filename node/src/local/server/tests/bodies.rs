//! Bodies that are too large or never read.

use super::*;

#[tokio::test]
async fn a_body_at_the_limit_passes_and_one_byte_more_does_not() {
    let server = start(&config(), router()).await;
    for (length, status) in [(64 * 1024, "200"), (64 * 1024 + 1, "413")] {
        let body = "x".repeat(length);
        let answer = ask(
            &server,
            format!("POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"),
        )
        .await;
        assert_eq!(&answer[9..12], status);
        let answer = ask(&server, format!("POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n")).await;
        assert_eq!(&answer[9..12], status);
    }
}

#[tokio::test]
async fn the_bounds_of_bodies_can_change_while_it_runs() {
    let listener = bind_tcp("127.0.0.1:0".parse().unwrap(), true).await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Arc::new(ServerLimits::new(&config()));
    let (stop, dropped) = (CancellationToken::new(), Dropped::default());
    let task = tokio::spawn(serve(
        listener.into(),
        router(),
        Arc::clone(&limits),
        dropped.clone(),
        stop.clone(),
        SHORT,
    ));
    let server = Running {
        address,
        stop,
        dropped,
        task,
    };
    let request = "POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nab";
    assert!(ask(&server, request).await.ends_with("ab"));
    limits.reload(&ApiConfig {
        body_bytes_max: ByteSize(1),
        ..config()
    });
    assert_eq!(
        problem_in(&ask(&server, request).await)["detail"],
        "the body is larger than 1 bytes"
    );
}

#[tokio::test]
async fn a_gigabyte_is_refused_without_being_kept_and_the_client_hears_why() {
    const GIB: usize = 1 << 30;
    let server = start(&config(), router()).await;
    let before = process::sample().unwrap().resident_bytes;
    let heads = [
        format!("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: {GIB}\r\n\r\n"),
        "POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n40000000\r\n".to_owned(),
    ];
    for head in heads {
        let (mut reader, mut writer) = server.connect().await.into_split();
        let flood = tokio::spawn(async move {
            let part = vec![b'x'; 64 * 1024];
            writer.write_all(head.as_bytes()).await.unwrap();
            let mut sent = 0;
            while sent < GIB && writer.write_all(&part).await.is_ok() {
                sent += part.len();
            }
        });
        assert_eq!(problem_in(&all(&mut reader).await)["status"], 413);
        timeout(PATIENCE, flood).await.unwrap().unwrap();
    }
    // Other tests may run in this process; a quarter of what was sent leaves them room.
    let after = process::sample().unwrap().resident_bytes;
    assert!(after < before + GIB as u64 / 4, "grew from {before} to {after}");
}

#[tokio::test]
async fn who_asks_before_sending_too_much_is_not_told_to_go_on() {
    let server = start(&config(), router()).await;
    let answer = ask(
        &server,
        "POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 999999999\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_body_nobody_reads_does_not_hurt() {
    let server = start(&config(), router()).await;
    let request = format!(
        "POST /ignore HTTP/1.1\r\nhost: x\r\ncontent-length: 999999\r\n\r\n{}",
        "x".repeat(200_000)
    );
    assert!(ask(&server, request).await.contains("not read"));
}

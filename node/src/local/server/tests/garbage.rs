//! What is not a proper request.

use super::*;

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let server = start(&config(), router()).await;
    let long = format!("GET /hello HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(1 << 20));
    let many = format!("GET /hello HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(100_000));
    let path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(1 << 20));
    for request in [long, many, path] {
        let mut stream = server.connect().await;
        // The server may close before it has taken everything.
        let (mut reader, mut writer) = stream.split();
        let (_, answer) = tokio::join!(writer.write_all(request.as_bytes()), all(&mut reader));
        assert!(
            answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 414") || answer.is_empty(),
            "{answer}"
        );
    }
    assert!(server.is_alive().await);
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let server = start(
        &ApiConfig {
            header_timeout: SHORT * 2,
            ..config()
        },
        router(),
    )
    .await;
    let mut noise = [0; 4096];
    let mut state = 88_172_645_463_325_252_u64;
    for byte in &mut noise {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
    let bad: [&[u8]; 12] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"/multistream/1.0.0\n",
        &noise,
        b"GET /hello\r\n\r\n",
        b"G E T /hello HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /hello HTTP/9.9\r\nhost: x\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nhost: x\r\nx: \0\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nhost : x\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ];
    for request in bad {
        let answer = ask(&server, request).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{:?}: {answer}",
            String::from_utf8_lossy(request)
        );
    }
    assert!(server.is_alive().await);
}

#[tokio::test]
async fn a_chunk_without_bounds_is_refused() {
    let server = start(&config(), router()).await;
    let head = "POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    for chunk in [
        "fffffffffffffffff\r\n".to_owned(),
        format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(1 << 20)),
        "-1\r\n".to_owned(),
    ] {
        let mut stream = server.connect().await;
        let (mut reader, mut writer) = stream.split();
        let request = format!("{head}{chunk}");
        let (_, answer) = tokio::join!(writer.write_all(request.as_bytes()), all(&mut reader));
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert!(server.is_alive().await);
}

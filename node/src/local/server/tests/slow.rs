//! Clients that are slow, on purpose or not.

use super::*;

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let server = start(
        &ApiConfig {
            header_timeout: SHORT,
            ..config()
        },
        router(),
    )
    .await;
    let begin = Instant::now();
    assert_eq!(ask(&server, "").await, "");
    assert!(begin.elapsed() >= SHORT);
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_cut_off() {
    let server = start(
        &ApiConfig {
            header_timeout: SHORT,
            ..config()
        },
        router(),
    )
    .await;
    let (mut reader, mut writer) = server.connect().await.into_split();
    let drip = tokio::spawn(async move {
        for byte in b"GET /hello HTTP/1.1\r\nx-slow: "
            .iter()
            .chain(std::iter::repeat(&b'a'))
        {
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    });
    assert_eq!(all(&mut reader).await, "");
    timeout(PATIENCE, drip)
        .await
        .expect("the drip must meet a closed connection")
        .unwrap();
    assert!(server.is_alive().await);
}

#[tokio::test]
async fn between_two_requests_the_idle_time_holds_and_not_the_heads() {
    let server = start(
        &ApiConfig {
            header_timeout: SHORT,
            idle_timeout: SHORT * 8,
            ..config()
        },
        router(),
    )
    .await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(one(&mut stream).await.ends_with("hello"));
    sleep(SHORT * 2).await;
    stream
        .write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(
        one(&mut stream).await.ends_with("hello"),
        "the connection must outlive a pause longer than a head may take"
    );
    let begin = Instant::now();
    assert_eq!(all(&mut stream).await, "");
    assert!(begin.elapsed() >= SHORT * 7);
}

#[tokio::test]
async fn the_second_head_must_come_in_time_too() {
    let server = start(
        &ApiConfig {
            header_timeout: SHORT,
            ..config()
        },
        router(),
    )
    .await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    one(&mut stream).await;
    stream.write_all(b"GET /hel").await.unwrap();
    assert_eq!(all(&mut stream).await, "");
}

#[tokio::test]
async fn a_slow_handler_is_not_a_slow_client() {
    let short = ApiConfig {
        header_timeout: SHORT,
        idle_timeout: SHORT,
        write_timeout: SHORT,
        body_timeout: SHORT,
        ..config()
    };
    let server = start(&short, router()).await;
    assert!(
        ask(&server, "GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .ends_with("slow")
    );
}

#[tokio::test]
async fn a_body_that_does_not_come_is_a_408() {
    let server = start(
        &ApiConfig {
            body_timeout: SHORT,
            ..config()
        },
        router(),
    )
    .await;
    let answer = ask(&server, "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab").await;
    let problem = problem_in(&answer);
    assert_eq!(
        (problem["status"].as_u64(), problem["kind"].as_str()),
        (Some(408), Some("timeout"))
    );
}

/// A body without end that tells when it is dropped.
fn endless(told: mpsc::Sender<()>) -> Router {
    let route = get(move || {
        let told = told.clone();
        async move {
            let part = Bytes::from(vec![b'x'; 64 * 1024]);
            let guard = DropTells(told);
            Body::from_stream(stream::repeat_with(move || {
                let _ = &guard;
                Ok::<_, Infallible>(part.clone())
            }))
        }
    });
    router().route("/endless", route)
}

struct DropTells(mpsc::Sender<()>);

impl Drop for DropTells {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off() {
    let (told, mut dropped) = mpsc::channel(1);
    let server = start(
        &ApiConfig {
            write_timeout: SHORT,
            ..config()
        },
        endless(told),
    )
    .await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    timeout(PATIENCE, dropped.recv())
        .await
        .expect("the answer must be given up")
        .unwrap();
    assert!(server.is_alive().await);
}

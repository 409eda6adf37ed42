use http_body_util::{BodyExt as _, Full, StreamBody};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::config::ByteSize;

const SECOND: Duration = Duration::from_secs(1);

fn limits() -> Arc<ServerLimits> {
    Arc::new(ServerLimits::new(&ApiConfig {
        header_timeout: 5 * SECOND,
        idle_timeout: 60 * SECOND,
        write_timeout: 30 * SECOND,
        body_timeout: 20 * SECOND,
        body_bytes_max: ByteSize(10),
        ..ApiConfig::default()
    }))
}

struct Pair {
    client: DuplexStream,
    server: GuardedIo<DuplexStream, ()>,
    activity: Arc<Activity>,
    stop: CancellationToken,
}

fn pair() -> Pair {
    let (client, io) = duplex(16);
    let (activity, stop) = (Activity::new(), CancellationToken::new());
    let permit = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
    let server = GuardedIo::new(io, limits(), Arc::clone(&activity), stop.clone(), (), permit);
    Pair {
        client,
        server,
        activity,
        stop,
    }
}

/// Reads until an error, and says after how many seconds which came.
async fn failure(server: &mut GuardedIo<DuplexStream, ()>) -> (u64, io::ErrorKind) {
    let begin = Instant::now();
    loop {
        match server.read_u8().await {
            Ok(_) => {}
            Err(error) => return (begin.elapsed().as_secs(), error.kind()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_head_has_its_time_from_the_beginning_and_bytes_do_not_extend_it() {
    let mut pair = pair();
    let drip = async {
        for _ in 0..60 {
            if pair.client.write_u8(b'a').await.is_err() {
                return;
            }
            tokio::time::sleep(SECOND).await;
        }
    };
    tokio::select! {
        found = failure(&mut pair.server) => assert_eq!(found, (5, io::ErrorKind::TimedOut)),
        () = drip => panic!("never cut off"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_has_the_idle_time_until_a_byte_comes_and_then_the_heads() {
    let mut pair = pair();
    drop(pair.activity.begin());
    assert!(pair.activity.waiting_since().is_some());
    assert_eq!(failure(&mut pair.server).await, (60, io::ErrorKind::TimedOut));

    let mut pair = self::pair();
    drop(pair.activity.begin());
    let late = async {
        tokio::time::sleep(50 * SECOND).await;
        pair.client.write_u8(b'G').await.unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        found = failure(&mut pair.server) => assert_eq!(found, (55, io::ErrorKind::TimedOut)),
        () = late => {}
    }
}

#[tokio::test(start_paused = true)]
async fn while_it_is_answered_or_upgraded_a_connection_may_be_silent() {
    let mut pair = pair();
    let answering = pair.activity.begin();
    assert_eq!(pair.activity.waiting_since(), None);
    let hour = tokio::time::timeout(3600 * SECOND, pair.server.read_u8()).await;
    assert!(hour.is_err(), "{hour:?}");
    pair.activity.upgrade();
    drop(answering);
    assert_eq!(pair.activity.waiting_since(), None);
    let hour = tokio::time::timeout(3600 * SECOND, pair.server.read_u8()).await;
    assert!(hour.is_err(), "{hour:?}");
    pair.stop.cancel();
    assert_eq!(failure(&mut pair.server).await, (0, io::ErrorKind::ConnectionAborted));
}

#[tokio::test(start_paused = true)]
async fn what_the_client_does_not_take_ends_the_connection_and_each_byte_it_takes_gives_time() {
    let mut pair = pair();
    drop(pair.activity.begin());
    let begin = Instant::now();
    let error = pair.server.write_all(&[0; 100]).await.unwrap_err();
    assert_eq!((error.kind(), begin.elapsed().as_secs()), (io::ErrorKind::TimedOut, 30));
    assert_eq!(
        pair.activity.waiting_since(),
        None,
        "with unsent bytes it does not merely wait"
    );

    let mut pair = self::pair();
    let slow = async {
        for _ in 0..100 {
            tokio::time::sleep(29 * SECOND).await;
            pair.client.read_u8().await.unwrap();
        }
    };
    let (written, ()) = tokio::join!(pair.server.write_all(&[0; 100]), slow);
    written.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_the_last_answer_the_client_may_go_on_for_a_moment_only() {
    let mut pair = pair();
    let begin = Instant::now();
    let endless = async {
        while pair.client.write_all(&[0; 16]).await.is_ok() {
            tokio::time::sleep(SECOND / 100).await;
        }
    };
    tokio::select! {
        ended = pair.server.shutdown() => ended.unwrap(),
        () = endless => panic!("the server must end first"),
    }
    assert!(begin.elapsed() <= LINGER + SECOND);
}

async fn read(body: impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin) -> Result<usize, BodyError> {
    LimitedBody::new(body, &limits())
        .collect()
        .await
        .map(|collected| collected.to_bytes().len())
}

fn parts(count: usize, pause: Duration) -> impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin {
    StreamBody::new(Box::pin(futures::stream::unfold(0, move |sent| async move {
        tokio::time::sleep(pause).await;
        (sent < count).then(|| (Ok(Frame::data(Bytes::from_static(b"x"))), sent + 1))
    })))
}

#[tokio::test(start_paused = true)]
async fn a_body_is_bounded_in_size_and_time() {
    assert_eq!(read(Full::from("0123456789")).await.unwrap(), 10);
    assert!(matches!(
        read(Full::from("0123456789a")).await,
        Err(BodyError::TooLarge { bytes_max: 10 })
    ));
    assert_eq!(read(parts(10, Duration::ZERO)).await.unwrap(), 10);
    assert!(matches!(
        read(parts(11, Duration::ZERO)).await,
        Err(BodyError::TooLarge { .. })
    ));
    assert_eq!(read(parts(9, SECOND)).await.unwrap(), 9);
    assert!(matches!(
        read(parts(9, 3 * SECOND)).await,
        Err(BodyError::TooSlow { .. })
    ));
}

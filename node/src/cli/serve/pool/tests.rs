//! Processes that are really run.

use std::collections::BTreeSet;

use super::*;

fn pool(command: &str, size: u16, lines: Lines) -> Pool {
    Pool::new(Exec::new(command).expect("a command"), size, lines)
}

async fn ask(pool: &Pool, body: impl Into<Bytes>) -> Result<Answer, Failure> {
    let request = Request::default();
    let asking = pool.handle(&request, body.into());
    tokio::time::timeout(Duration::from_secs(20), asking)
        .await
        .expect("an end")
}

async fn said(pool: &Pool, body: &'static str) -> String {
    let answer = ask(pool, body).await.expect("a success");
    String::from_utf8(answer.body.into()).expect("text")
}

/// Says its number, and how many lines it was asked.
const COUNTS: &str = "n=0; while read -r line; do n=$((n+1)); echo \"$$ $n $line\"; done";

#[tokio::test]
async fn a_process_stays_and_has_one_call_at_a_time() {
    let pool = pool(COUNTS, 3, Lines::Text);
    let one = said(&pool, "a").await;
    let two = said(&pool, "b").await;
    let number = one.strip_suffix(" 1 a").expect("the first");
    assert_eq!(two, format!("{number} 2 b"), "the same process, not a new one");
    let calls = (0..60).map(|n| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let answer = ask(&pool, format!("call {n}")).await.expect("a success").body;
            let answer = String::from_utf8(answer.into()).expect("text");
            assert!(answer.ends_with(&format!("call {n}")), "{answer} for {n}");
            answer.split(' ').next().map(str::to_owned)
        })
    });
    let numbers: BTreeSet<_> = futures::future::try_join_all(calls)
        .await
        .expect("no panic")
        .into_iter()
        .collect();
    assert!((1..=3).contains(&numbers.len()), "{numbers:?}");
}

#[tokio::test]
async fn an_answer_that_comes_too_late_answers_nobody_else() {
    let pool = pool(
        "while read -r line; do sleep $line; echo \"slept $line\"; done",
        1,
        Lines::Text,
    );
    let late = tokio::time::timeout(Duration::from_millis(300), ask(&pool, "1")).await;
    assert!(late.is_err());
    assert_eq!(said(&pool, "0").await, "slept 0");
}

#[tokio::test]
async fn a_process_that_ends_fails_its_own_call_with_its_last_words() {
    let pool = pool(
        "while read -r line; do case $line in die) echo gone >&2; exit 3;; *) echo \"$line\";; esac; done",
        1,
        Lines::Text,
    );
    assert_eq!(said(&pool, "one").await, "one");
    let failure = ask(&pool, "die").await.expect_err("a failure");
    assert_eq!(
        failure.reason,
        "the command exited with status 3: gone, before it answered"
    );
    assert_eq!(said(&pool, "two").await, "two");
    // One that ends between two calls fails none.
    let once = self::pool("read -r line; echo \"$line\"", 1, Lines::Text);
    for body in ["a", "b", "c"] {
        assert_eq!(said(&once, body).await, body);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_noisy_process_and_a_closed_output_end_no_better_than_they_should() {
    let noisy = pool(
        "while read -r line; do head -c 300000 /dev/zero >&2; echo ok; done",
        1,
        Lines::Text,
    );
    for _ in 0..3 {
        assert_eq!(said(&noisy, "x").await, "ok");
    }
    let closed = ask(&pool("exec >&-; sleep 30", 1, Lines::Text), "x")
        .await
        .expect_err("a failure");
    assert_eq!(closed.reason, "the command closed its output before it answered");
    let large = ask(&pool("yes | tr -d '\\n'", 1, Lines::Text), "x")
        .await
        .expect_err("a failure");
    assert!(large.reason.contains("larger than 1048576 bytes"), "{large}");
    let lines = ask(&pool("cat", 1, Lines::Text), "two\nlines")
        .await
        .expect_err("a failure");
    assert_eq!(lines.code, 400);
}

#[tokio::test]
async fn json_carries_what_a_line_cannot() {
    let echo = pool("cat", 1, Lines::Json);
    let wrong = ask(&echo, "x").await.expect_err("what came is no answer");
    assert!(wrong.code == 502 && wrong.reason.contains("unknown field"), "{wrong}");
    // Any bytes there and back; `sed` makes of the request an answer.
    let back = pool("sed -u 's/\"endpoint\":\"[^\"]*\",//'", 1, Lines::Json);
    for body in [&b"two\nlines"[..], &[0xff, 0, 10, 13], b""] {
        assert_eq!(ask(&back, body).await.expect("a success").body, body);
    }
    let answers = [
        (r#"{"data":"x","headers":{"kind":"new"}}"#, Ok(("x", Some("new")))),
        (
            r#"{"error":{"code":409,"reason":"there already"}}"#,
            Err((409, "there already")),
        ),
        (r#"{"error":{"code":7,"reason":"odd"}}"#, Err((500, "odd"))),
        (
            r#"{"data":"x","data_base64":"eA=="}"#,
            Err((502, "the command's line is no answer: it has two bodies")),
        ),
    ];
    for (line, expected) in answers {
        let pool = pool(&format!("while read -r line; do echo '{line}'; done"), 1, Lines::Json);
        match (ask(&pool, "x").await, expected) {
            (Ok(answer), Ok((data, kind))) => {
                assert_eq!(answer.body, data);
                assert_eq!(answer.headers.get("kind").map(String::as_str), kind);
            }
            (Err(failure), Err((code, reason))) => assert_eq!((failure.code, &*failure.reason), (code, reason)),
            (got, expected) => panic!("{got:?} for {expected:?}"),
        }
    }
}

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::{Arc, Mutex, mpsc},
};

use tracing::{info, info_span};

use super::*;

const REMOTE: &str = "00-0123456789abcdef0123456789abcdef-00000000000000aa-01";

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn node(format: LogFormat) -> (Dispatch, Guard, Lines) {
    let config = TelemetryConfig {
        log: "info".into(),
        log_format: format,
    };
    let lines = Lines::default();
    let writer = lines.clone();
    let (dispatch, guard) = build(
        &config,
        otlp::provider(&|_| None).unwrap(),
        move || writer.clone(),
        false,
    )
    .unwrap();
    (dispatch, guard, lines)
}

#[test]
fn two_nodes_share_the_trace_id_in_their_logs_without_any_export() {
    let (caller, _caller_guard, caller_lines) = node(LogFormat::Text);
    let (callee, _callee_guard, callee_lines) = node(LogFormat::Json);
    let sent = tracing::dispatcher::with_default(&caller, || {
        let _span = info_span!("call", service = "greet").entered();
        info!(peer = "B", "calling");
        trace::current().unwrap()
    });
    tracing::dispatcher::with_default(&callee, || {
        let span = info_span!("serve", service = "greet");
        assert!(trace::continue_from(&span, Some(&sent.traceparent()), None));
        span.in_scope(|| info!(peer = "A", "serving"));
    });
    let trace_id = sent.traceparent()[3..35].to_owned();
    let text = caller_lines.text();
    assert!(
        text.ends_with('\n') && text.contains(&format!(" trace_id={trace_id} span_id={}", &sent.traceparent()[36..52])),
        "{text}"
    );
    let object: serde_json::Value = serde_json::from_str(&callee_lines.text()).unwrap();
    assert_eq!(
        (&object["trace_id"], &object["peer"], &object["message"]),
        (&trace_id.into(), &"A".into(), &"serving".into())
    );
    assert_ne!(object["span_id"], sent.traceparent()[36..52]);
}

#[test]
fn a_line_outside_any_span_has_no_trace() {
    let (dispatch, _guard, lines) = node(LogFormat::Json);
    tracing::dispatcher::with_default(&dispatch, || {
        info!("alone");
        assert_eq!(trace::current(), None);
    });
    let object: serde_json::Value = serde_json::from_str(&lines.text()).unwrap();
    assert!(object.get("trace_id").is_none() && object["message"] == "alone");
}

#[test]
fn the_trace_survives_a_filter_that_hides_its_span() {
    let (dispatch, guard, lines) = node(LogFormat::Text);
    guard.set_filter("warn").unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        let _span = info_span!("call").entered();
        tracing::warn!("shown");
        let id = &trace::traceparent().unwrap()[3..35];
        assert!(lines.text().contains(&format!("trace_id={id}")), "{}", lines.text());
    });
}

#[test]
fn a_remote_parent_is_continued_and_its_state_carried_on() {
    let (dispatch, _guard, _) = node(LogFormat::Text);
    tracing::dispatcher::with_default(&dispatch, || {
        let span = info_span!("serve");
        assert!(trace::continue_from(&span, Some(REMOTE), Some("vendor=1,other=2")));
        let inner = span.in_scope(|| info_span!("inner").in_scope(|| trace::current().unwrap()));
        assert_eq!(inner.traceparent()[..36], REMOTE[..36]);
        assert_ne!(inner.traceparent()[36..52], REMOTE[36..52]);
        assert_eq!(inner.tracestate.as_deref(), Some("vendor=1,other=2"));
    });
}

#[test]
fn headers_that_are_no_trace_context_are_ignored() {
    let (dispatch, _guard, _) = node(LogFormat::Text);
    tracing::dispatcher::with_default(&dispatch, || {
        for bad in [
            "",
            "00",
            "00-0-0-0",
            &REMOTE.to_uppercase(),
            &REMOTE.replace("0123456789abcdef", "0000000000000000"),
            &"x".repeat(9999),
        ] {
            let span = info_span!("serve");
            assert!(!trace::continue_from(&span, Some(bad), None), "{bad}");
            assert!(trace::of(&span).is_some());
        }
        let span = info_span!("serve");
        assert!(trace::continue_from(&span, Some(REMOTE), Some(&"a=b,".repeat(9999))));
        assert_eq!(trace::of(&span).unwrap().tracestate, None);
    });
}

#[test]
fn without_a_subscriber_there_is_no_trace_and_no_panic() {
    tracing::dispatcher::with_default(&Dispatch::none(), || {
        let span = info_span!("call");
        assert!(!trace::continue_from(&span, Some(REMOTE), None));
        assert_eq!(trace::of(&span), None);
    });
}

#[test]
fn the_filter_can_be_changed_and_a_bad_one_is_refused() {
    let (dispatch, guard, lines) = node(LogFormat::Text);
    tracing::dispatcher::with_default(&dispatch, || {
        tracing::debug!("hidden");
        guard.set_filter("debug").unwrap();
        tracing::debug!("shown");
        let error = guard.set_filter("a=b=c").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        tracing::debug!("still shown");
    });
    let text = lines.text();
    assert!(
        !text.contains("hidden") && text.contains(" shown") && text.contains("still shown"),
        "{text}"
    );
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let (dispatch, _guard, lines) = node(LogFormat::Text);
    tracing::dispatcher::with_default(
        &dispatch,
        || info!(agent = ?"evil\u{1b}[2J\nfake line", "peer \u{1b}[31mred"),
    );
    let text = lines.text();
    assert!(!text.contains('\u{1b}') && text.lines().count() == 1, "{text:?}");
}

#[test]
fn which_variables_mean_export() {
    let wants = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        otlp::provider(&move |name| pairs.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone())).map(|_| ())
    };
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    assert!(wants(&[]).is_ok());
    assert!(wants(&[endpoint]).is_ok());
    assert!(wants(&[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).is_ok());
    assert!(matches!(
        wants(&[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]),
        Err(TelemetryError::Unsupported { .. })
    ));
    assert!(matches!(
        wants(&[endpoint, ("OTEL_TRACES_EXPORTER", "zipkin")]),
        Err(TelemetryError::Unsupported { .. })
    ));
    for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
        assert!(wants(&[endpoint, off, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).is_ok());
    }
}

/// Answers one request after the other with 200 and hands on what was asked.
fn collector() -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::sync_channel(16);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            while let Some(request) = answer(stream.as_ref().unwrap()) {
                if sender.send(request).is_err() {
                    return;
                }
            }
        }
    });
    (address, receiver)
}

fn answer(mut stream: &TcpStream) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap()
        .parse()
        .unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
        .ok()?;
    Some((head, body))
}

/// The fields of a protobuf message that are length-delimited, which is all this test needs.
fn parts(mut message: &[u8], wanted: u64) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let (key, rest) = varint(message);
        message = match key & 7 {
            0 => varint(rest).1,
            1 => &rest[8..],
            2 => {
                let (length, rest) = varint(rest);
                let (part, rest) = rest.split_at(length as usize);
                if key >> 3 == wanted {
                    found.push(part);
                }
                rest
            }
            5 => &rest[4..],
            other => panic!("wire type {other}"),
        };
    }
    found
}

fn varint(bytes: &[u8]) -> (u64, &[u8]) {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return (value, &bytes[at + 1..]);
        }
    }
    panic!("a varint without end");
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

fn run_child(variables: &[(&str, &str)]) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "telemetry::tests::a_process_that_traces",
            "--ignored",
            "--nocapture",
        ])
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn spans_reach_a_collector_with_the_right_parents() {
    let (address, requests) = collector();
    run_child(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &address),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret"),
    ]);
    let (head, body) = requests.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(
        head.starts_with("post /v1/traces ") && head.contains("\r\nx-key: secret\r\n"),
        "{head}"
    );
    let resource_spans = parts(&body, 1)[0];
    assert!(contains(parts(resource_spans, 1)[0], "weft"));
    let spans: Vec<_> = parts(resource_spans, 2)
        .into_iter()
        .flat_map(|scope| parts(scope, 2))
        .collect();
    let span = |name: &str| *spans.iter().find(|span| parts(span, 5)[0] == name.as_bytes()).unwrap();
    // trace_id = 1, span_id = 2, parent_span_id = 4, name = 5.
    let hex = |part: &[u8]| data_encoding::HEXLOWER.encode(part);
    assert_eq!(hex(parts(span("outer"), 1)[0]), REMOTE[3..35]);
    assert_eq!(hex(parts(span("outer"), 4)[0]), REMOTE[36..52]);
    assert_eq!(parts(span("inner"), 4)[0], parts(span("outer"), 2)[0]);
    assert_eq!(parts(span("inner"), 1)[0], parts(span("outer"), 1)[0]);
    assert_eq!(spans.len(), 2, "a debug span is not exported");
}

#[test]
fn the_service_name_and_the_sampler_are_the_users() {
    let (address, requests) = collector();
    let endpoint = format!("{address}/v1/traces");
    run_child(&[
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &endpoint),
        ("OTEL_SERVICE_NAME", "edge-7"),
    ]);
    let (_, body) = requests.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(contains(&body, "edge-7"));
    run_child(&[
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &endpoint),
        ("OTEL_TRACES_SAMPLER", "always_off"),
    ]);
    run_child(&[
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &endpoint),
        ("OTEL_SDK_DISABLED", "true"),
    ]);
    assert!(
        requests.try_recv().is_err(),
        "a child that must not export has exported"
    );
}

#[test]
fn a_dead_collector_does_not_hold_up_the_end() {
    let begin = std::time::Instant::now();
    run_child(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")]);
    assert!(begin.elapsed() < FLUSH_TIMEOUT + Duration::from_secs(5));
}

#[test]
#[ignore = "a helper of the tests above, which run it as a process with OTEL_* variables"]
fn a_process_that_traces() {
    // As the binary does it: inside a runtime of one thread, which must not be needed to flush.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let guard = init(&TelemetryConfig::default()).unwrap();
        assert!(matches!(
            init(&TelemetryConfig::default()),
            Err(TelemetryError::AlreadySet)
        ));
        let outer = info_span!("outer");
        trace::continue_from(&outer, Some(REMOTE), None);
        outer.in_scope(|| info_span!("inner").in_scope(|| tracing::debug_span!("detail").in_scope(|| info!("done"))));
        drop(outer);
        drop(guard);
    });
}

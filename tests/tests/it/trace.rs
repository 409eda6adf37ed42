//! Traces: a call's spans on both nodes belong to one trace, and leave by OTLP.

use weft_tests::{
    Node,
    collector::{Collector, Span},
    until,
};

/// Fast export, so that a test need not wait for a full batch.
fn traced(name: &str, collector: &Collector) -> Node {
    Node::new(name)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        .env("OTEL_SERVICE_NAME", name)
        .env("OTEL_BSP_SCHEDULE_DELAY", "200")
}

#[test]
fn a_calls_spans_on_both_nodes_share_the_trace() {
    let collector = Collector::start();
    let alpha = traced("alpha", &collector).started();
    let beta = traced("beta", &collector).arg("--join").arg(&alpha.ticket(1)).started();
    let served = alpha.serve("echo", &["--exec", "cat >/dev/null; printf %s \"$TRACEPARENT\""]);
    until("the service is known", || {
        (!beta.get("/v1/services").as_array()?.is_empty()).then_some(())
    });
    // The application's own trace goes on through both nodes to the application that serves.
    let trace_id = "0af7651916cd43dd8448eb211c80319c";
    let parent_id = "b7ad6b7169203331";
    let request = beta
        .request("POST", "/v1/services/echo")
        .header("traceparent", &format!("00-{trace_id}-{parent_id}-01"))
        .body(b"x");
    let answer = beta.send(&request);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(
        answer.text().starts_with(&format!("00-{trace_id}-")),
        "the service was told {:?}",
        answer.text()
    );
    drop(served);
    let spans = until("spans of both nodes arrive", || {
        let spans: Vec<Span> = collector
            .spans()
            .into_iter()
            .filter(|s| s.trace_id == trace_id)
            .collect();
        let from = |name: &str| spans.iter().any(|s| s.service == name);
        (from("alpha") && from("beta")).then_some(spans)
    });
    let call = spans.iter().find(|s| s.service == "beta" && s.parent_id == parent_id);
    assert!(call.is_some(), "beta's span continues the application's: {spans:?}");
    let inbound = spans
        .iter()
        .find(|s| s.service == "alpha" && s.name == "inbound")
        .expect("alpha's span");
    assert!(
        spans
            .iter()
            .any(|s| s.service == "beta" && s.span_id == inbound.parent_id),
        "its parent is on beta: {spans:?}"
    );
}

#[test]
fn a_collector_that_is_away_does_not_matter() {
    let mut node = Node::new("alpha")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .started();
    let _echo = node.serve("echo", &["--echo"]);
    assert_eq!(node.run(&["call", "echo", "x"]).ok(), "x");
    until("it is said once", || {
        node.log().contains("traces do not reach the collector").then_some(())
    });
    assert!(node.is_alive());
    assert_eq!(node.stop(), Some(0));
    let mut wrong = Node::new("beta")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    wrong.spawn();
    let (code, log) = wrong.wait_ended();
    assert!(
        code.is_some_and(|c| c != 0) && log.contains("OTEL_EXPORTER_OTLP_PROTOCOL"),
        "{code:?} {log}"
    );
}

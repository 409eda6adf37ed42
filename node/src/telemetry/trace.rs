//! W3C trace context: one trace id for a request on all nodes it touches.
//!
//! A span made from a remote `traceparent` continues that trace; what is sent on carries the `traceparent` of the present span. This
//! works whether or not traces are exported, so that the logs of two nodes can always be joined by `trace_id`. Without an installed
//! subscriber (see [`init`](super::init)) there is no trace, and nothing is sent.

use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use weft_protocol::trace::{TraceParent, check_tracestate};

/// What travels with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// The header that every party understands.
    pub parent: TraceParent,
    /// The header that is carried on for those who understand it.
    pub tracestate: Option<String>,
}

impl TraceContext {
    /// The `traceparent` header.
    pub fn traceparent(&self) -> String {
        self.parent.to_string()
    }

    fn of_span_context(context: &SpanContext) -> Option<Self> {
        if !context.is_valid() {
            return None;
        }
        let parent = TraceParent {
            trace_id: context.trace_id().to_bytes(),
            span_id: context.span_id().to_bytes(),
            flags: context.trace_flags().to_u8(),
        };
        let tracestate = context.trace_state().header();
        Some(Self {
            parent,
            tracestate: Some(tracestate).filter(|text| !text.is_empty()),
        })
    }
}

/// Makes a new span continue the trace of a remote caller; to be called before anything is logged in the span. Headers that are
/// missing or malformed leave the span as it is: they must not be a reason to refuse a request. Returns whether the span continues.
pub fn continue_from(span: &Span, traceparent: Option<&str>, tracestate: Option<&str>) -> bool {
    let Some(parent) = traceparent.and_then(|text| text.parse::<TraceParent>().ok()) else {
        return false;
    };
    let state = tracestate
        .filter(|text| check_tracestate(text).is_ok())
        .and_then(|text| text.parse::<TraceState>().ok());
    let remote = SpanContext::new(
        TraceId::from_bytes(parent.trace_id),
        SpanId::from_bytes(parent.span_id),
        TraceFlags::new(parent.flags),
        true,
        state.unwrap_or_default(),
    );
    span.set_parent(Context::new().with_remote_span_context(remote)).is_ok()
}

/// What a request made in the present span carries.
pub fn current() -> Option<TraceContext> {
    of(&Span::current())
}

/// What a request made in this span carries.
pub fn of(span: &Span) -> Option<TraceContext> {
    TraceContext::of_span_context(span.context().span().span_context())
}

/// The `traceparent` of the present span.
pub fn traceparent() -> Option<String> {
    current().map(|context| context.traceparent())
}

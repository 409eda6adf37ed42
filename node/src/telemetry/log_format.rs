//! Log lines with the ids of the trace they belong to.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use opentelemetry::trace::TraceContextExt;
use tracing::{Dispatch, Event, Subscriber, dispatcher::WeakDispatch};
use tracing_subscriber::{
    Layer,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use super::fields::{SPAN_ID, TRACE_ID};

/// The dispatcher that a subscriber was put into. While a line is written, `tracing` does not tell which that is.
#[derive(Debug, Clone, Default)]
pub(super) struct DispatchSlot(Arc<OnceLock<WeakDispatch>>);

impl<S: Subscriber> Layer<S> for DispatchSlot {
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        // A subscriber lives in one dispatcher; a second registration would be the same one.
        let _ = self.0.set(dispatch.downgrade());
    }
}

impl DispatchSlot {
    fn ids(&self) -> Option<(String, String)> {
        let dispatch = self.0.get()?.upgrade()?;
        let current = dispatch.current_span();
        let context = tracing_opentelemetry::get_otel_context(current.id()?, &dispatch)?;
        let span = context.span();
        let ids = span.span_context();
        ids.is_valid()
            .then(|| (ids.trace_id().to_string(), ids.span_id().to_string()))
    }
}

/// Where the ids go in a line.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// ` trace_id=… span_id=…` at the end.
    EndOfLine,
    /// Two more members of the JSON object.
    JsonObject,
}

/// Another format with the ids added.
#[derive(Debug)]
pub(super) struct WithTrace<F> {
    pub(super) inner: F,
    pub(super) place: Place,
    pub(super) slot: DispatchSlot,
}

impl<S, N, F> FormatEvent<S, N> for WithTrace<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some((trace_id, span_id)) = self.slot.ids() else {
            return self.inner.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        let line = line.trim_end_matches('\n');
        match (self.place, line.strip_suffix('}')) {
            (Place::JsonObject, Some(open)) => writeln!(
                writer,
                "{open},\"{TRACE_ID}\":\"{trace_id}\",\"{SPAN_ID}\":\"{span_id}\"}}"
            ),
            _ => writeln!(writer, "{line} {TRACE_ID}={trace_id} {SPAN_ID}={span_id}"),
        }
    }
}

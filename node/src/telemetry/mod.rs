//! Logs, traces and metrics.
//!
//! Logs go to standard error, as text or JSON, through a filter that can be changed while the node runs; every line written inside
//! a span carries its `trace_id`. Spans of level INFO and above are traces; they are exported when the `OTEL_*` variables name a
//! collector (`otlp`), and their ids travel between nodes in any case ([`trace`]). [`fields`] is the table of field names,
//! [`metrics`] the OpenMetrics side.
//!
//! The subscriber is the one thing here that is global to the process, because `tracing` is; it is installed by the binary, never
//! by the library. Not promised: that a log line survives a crash of the machine.

pub mod fields;
mod log_format;
pub mod metrics;
mod otlp;
pub mod process;
#[cfg(test)]
mod tests;
pub mod trace;

use std::{fmt, io::IsTerminal as _, time::Duration};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Dispatch, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    fmt::{MakeWriter, format},
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

use self::log_format::{DispatchSlot, Place, WithTrace};
use crate::{
    config::{LogFormat, TelemetryConfig},
    error::{ErrorKind, Kind},
};

/// How long the last spans may take to reach the collector when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Why telemetry cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("{filter:?} is not a log filter: {reason}")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A variable asks for something that this program cannot do.
    #[error("{variable} is {value:?}, supported is {supported}")]
    Unsupported {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        supported: &'static str,
    },
    /// The exporter cannot be made.
    #[error("cannot export traces: {reason}")]
    Exporter {
        /// Why.
        reason: String,
    },
    /// Somebody else has installed a subscriber.
    #[error("logging is already set up in this process")]
    AlreadySet,
}

impl Kind for TelemetryError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Filter { .. } | Self::Unsupported { .. } | Self::Exporter { .. } => ErrorKind::Invalid,
            Self::AlreadySet => ErrorKind::Conflict,
        }
    }
}

/// Keeps telemetry going; on drop, the last spans are sent, for which it may block some seconds.
pub struct Guard {
    provider: SdkTracerProvider,
    set_filter: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

impl Guard {
    /// Changes what is logged.
    pub fn set_filter(&self, filter: &str) -> Result<(), TelemetryError> {
        let apply = |filter| (self.set_filter)(filter);
        let wrong = |reason| TelemetryError::Filter {
            filter: filter.into(),
            reason,
        };
        apply(parse_filter(filter)?).map_err(wrong)
    }

    /// Sends what is queued now.
    pub fn flush(&self) {
        // What cannot be sent has been reported by the exporter.
        let _ = self.provider.force_flush();
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.provider.shutdown_with_timeout(FLUSH_TIMEOUT);
    }
}

/// Sets up logs and traces for this process, by the configuration and the process's `OTEL_*` variables.
pub fn init(config: &TelemetryConfig) -> Result<Guard, TelemetryError> {
    let colors = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let provider = otlp::provider(&|name| std::env::var(name).ok())?;
    let (dispatch, guard) = build(config, provider, std::io::stderr, colors)?;
    dispatch.try_init().map_err(|_| TelemetryError::AlreadySet)?;
    Ok(guard)
}

/// What libraries say at `info` and `warn` of their ordinary work; whoever wants it names them.
const QUIET: &str = "libp2p_swarm=warn,libp2p_mdns=warn,libp2p_kad=error,yamux=error";

fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    let quieter = match filter.trim() {
        text if text == "info" || text.starts_with("info,") => format!("{QUIET},{text}"),
        text => text.to_owned(),
    };
    EnvFilter::try_new(&quieter).map_err(|error| TelemetryError::Filter {
        filter: filter.into(),
        reason: error.to_string(),
    })
}

fn build<W>(
    config: &TelemetryConfig,
    provider: SdkTracerProvider,
    writer: W,
    colors: bool,
) -> Result<(Dispatch, Guard), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(parse_filter(&config.log)?);
    let traces = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("weft"))
        .with_threads(false)
        .with_location(false)
        .with_filter(LevelFilter::INFO);
    let slot = DispatchSlot::default();
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colors);
    let lines = match config.log_format {
        LogFormat::Text => lines
            .event_format(WithTrace {
                inner: format::Format::default().with_ansi(colors),
                place: Place::EndOfLine,
                slot: slot.clone(),
            })
            .with_filter(filter)
            .boxed(),
        LogFormat::Json => lines
            .fmt_fields(format::JsonFields::new())
            .event_format(WithTrace {
                inner: format::Format::default().json().flatten_event(true),
                place: Place::JsonObject,
                slot: slot.clone(),
            })
            .with_filter(filter)
            .boxed(),
    };
    let subscriber = Registry::default().with(traces).with(lines).with(slot);
    let set_filter = Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()));
    Ok((Dispatch::new(subscriber), Guard { provider, set_filter }))
}

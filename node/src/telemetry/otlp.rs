//! Export of traces by OTLP over HTTP, as the standard `OTEL_*` environment variables say.
//!
//! Spans are queued (`OTEL_BSP_MAX_QUEUE_SIZE`, 2048 unless set; more are dropped) and sent by one thread of the SDK. That thread is
//! none of the node's tasks: it touches only spans that have ended, it is started only when an endpoint is configured, and so never
//! in a simulation. It runs its own small runtime for the HTTP client, so that flushing works while the node's runtime stops.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tokio::runtime::{self, Runtime};

use super::TelemetryError;

/// Which of the `OTEL_*` variables are set to what.
pub(super) type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

const SERVICE_NAME: &str = "weft";

/// A provider that exports when an endpoint is configured, and otherwise one that only hands out ids.
pub(super) fn provider(variable: Variable<'_>) -> Result<SdkTracerProvider, TelemetryError> {
    let provider = SdkTracerProvider::builder().with_resource(resource(variable));
    Ok(match wants_export(variable)? {
        true => provider.with_batch_exporter(OwnRuntime::new()?).build(),
        false => provider.build(),
    })
}

fn set(variable: Variable<'_>, name: &str) -> Option<String> {
    variable(name)
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
}

fn wants_export(variable: Variable<'_>) -> Result<bool, TelemetryError> {
    let endpoint = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
        .iter()
        .find_map(|name| set(variable, name));
    let disabled = set(variable, "OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let exporter = set(variable, "OTEL_TRACES_EXPORTER").unwrap_or_else(|| "otlp".into());
    if endpoint.is_none() || disabled || exporter == "none" {
        return Ok(false);
    }
    if exporter != "otlp" {
        return Err(TelemetryError::Unsupported {
            variable: "OTEL_TRACES_EXPORTER",
            value: exporter,
            supported: "otlp, none",
        });
    }
    let names = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
    match names.iter().find_map(|name| set(variable, name)) {
        Some(value) if value != "http/protobuf" => Err(TelemetryError::Unsupported {
            variable: "OTEL_EXPORTER_OTLP_PROTOCOL",
            value,
            supported: "http/protobuf",
        }),
        _ => Ok(true),
    }
}

/// `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` are read by the SDK; without a name it would call itself unknown.
fn resource(variable: Variable<'_>) -> Resource {
    let named = set(variable, "OTEL_SERVICE_NAME").is_some()
        || set(variable, "OTEL_RESOURCE_ATTRIBUTES")
            .is_some_and(|list| list.split(',').any(|item| item.trim().starts_with("service.name=")));
    let builder = Resource::builder();
    if named {
        builder.build()
    } else {
        builder.with_service_name(SERVICE_NAME).build()
    }
}

/// The exporter, driven on the SDK's thread by a runtime of its own: that thread knows no other.
#[derive(Debug)]
struct OwnRuntime {
    exporter: OtlpExporter,
    /// Taken when dropped, for a runtime must not be dropped by waiting for it inside another.
    runtime: Option<Runtime>,
    failing: Arc<AtomicBool>,
}

impl OwnRuntime {
    fn new() -> Result<Self, TelemetryError> {
        let failed = |reason: String| TelemetryError::Exporter { reason };
        let exporter = OtlpExporter::builder()
            .with_http()
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            exporter,
            runtime: Some(runtime),
            failing: Arc::default(),
        })
    }

    /// Once per change: a collector that is away for a day must not fill the log.
    fn report(&self, result: &OTelSdkResult) {
        let failed = result.is_err();
        if self.failing.swap(failed, Ordering::Relaxed) == failed {
            return;
        }
        match result {
            Err(error) => tracing::warn!(%error, "traces do not reach the collector"),
            Ok(()) => tracing::info!("traces reach the collector again"),
        }
    }
}

impl SpanExporter for OwnRuntime {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let Some(runtime) = &self.runtime else {
            return Err(OTelSdkError::AlreadyShutdown);
        };
        let result = runtime.block_on(self.exporter.export(batch));
        self.report(&result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

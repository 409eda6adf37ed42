//! A collector of OTLP traces.

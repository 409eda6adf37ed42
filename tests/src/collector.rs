//! A collector of OTLP traces over HTTP, just large enough for tests.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use crate::http::find;

/// A span as it was exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Who exported it: the attribute `service.name`.
    pub service: String,
    /// Its name.
    pub name: String,
    /// The trace it belongs to, in hex.
    pub trace_id: String,
    /// Its own id, in hex.
    pub span_id: String,
    /// Its parent's id, in hex; empty for a root.
    pub parent_id: String,
}

/// See the module. It serves until the process ends.
pub struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    /// Begins to collect.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let spans = Arc::default();
        let sink = Arc::clone(&spans);
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let sink = Arc::clone(&sink);
                thread::spawn(move || serve(socket, &sink));
            }
        });
        Collector { url, spans }
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What has arrived until now.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }
}

/// Answers the requests of one connection.
fn serve(mut socket: TcpStream, sink: &Mutex<Vec<Span>>) -> Option<()> {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 16 << 10];
        let read = socket.read(&mut buffer).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
        let Some(end) = find(&bytes, b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let length: usize = head
            .lines()
            .find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok())?;
        if bytes.len() < end + 4 + length {
            continue;
        }
        assert!(head.starts_with("post /v1/traces"), "{head}");
        sink.lock().unwrap().extend(spans_of(&bytes[end + 4..end + 4 + length]));
        bytes.drain(..end + 4 + length);
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
    }
}

/// The spans of an `ExportTraceServiceRequest`.
fn spans_of(request: &[u8]) -> Vec<Span> {
    let mut all = Vec::new();
    for resource_spans in nested(request, 1) {
        let attributes = nested(resource_spans, 1)
            .into_iter()
            .flat_map(|resource| nested(resource, 1));
        let service = attributes
            .filter(|a| text(a, 1) == "service.name")
            .flat_map(|a| nested(a, 2))
            .map(|v| text(v, 1))
            .next();
        for span in nested(resource_spans, 2).into_iter().flat_map(|scope| nested(scope, 2)) {
            all.push(Span {
                service: service.clone().unwrap_or_default(),
                name: text(span, 5),
                trace_id: hex(span, 1),
                span_id: hex(span, 2),
                parent_id: hex(span, 4),
            });
        }
    }
    all
}

fn text(message: &[u8], number: u64) -> String {
    nested(message, number)
        .first()
        .map(|b| String::from_utf8_lossy(b).into_owned())
        .unwrap_or_default()
}

fn hex(message: &[u8], number: u64) -> String {
    nested(message, number)
        .first()
        .map(|b| b.iter().map(|byte| format!("{byte:02x}")).collect())
        .unwrap_or_default()
}

/// The length-delimited fields with one number in a protobuf message.
fn nested(mut message: &[u8], number: u64) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some(tag) = varint(&mut message) {
        let skip = match tag & 7 {
            0 => varint(&mut message).map(|_| 0),
            1 => Some(8),
            2 => varint(&mut message),
            5 => Some(4),
            _ => None,
        };
        let Some((value, rest)) = skip.and_then(|n| message.split_at_checked(n as usize)) else {
            break;
        };
        if tag & 7 == 2 && tag >> 3 == number {
            found.push(value);
        }
        message = rest;
    }
    found
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

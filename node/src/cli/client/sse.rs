//! Server-sent events, read as the HTML standard says (§9.2), with bounds.

use std::{collections::VecDeque, time::Duration};

use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::cli::error::CliError;

/// Largest event; a message of the mesh is at most 1 MiB, and base64 and JSON add less than the rest.
const EVENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The node sends a comment every 15 s; after three silences it is taken for dead.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// The last id seen, for resuming.
    pub(crate) id: Option<String>,
    /// Its type; `message` when none was given.
    pub(crate) name: String,
    /// Its data lines, joined by newlines.
    pub(crate) data: String,
}

/// The events of one response.
#[derive(Debug)]
pub(crate) struct EventStream {
    body: Incoming,
    parser: Parser,
}

impl EventStream {
    pub(crate) fn new(body: Incoming) -> Self {
        Self {
            body,
            parser: Parser::default(),
        }
    }

    /// The next event; `None` when the node ended the stream. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, CliError> {
        loop {
            if let Some(event) = self.parser.next_event() {
                return Ok(Some(event));
            }
            let frame = tokio::time::timeout(SILENCE_MAX, self.body.frame()).await;
            match frame {
                Err(_) => return Err(CliError::Lost(format!("nothing came for {} s", SILENCE_MAX.as_secs()))),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(CliError::Lost(error.to_string())),
                Ok(Some(Ok(frame))) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.parser.feed(bytes)?;
                    }
                }
            }
        }
    }
}

/// From bytes to events, without I/O.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    started: bool,
    id: Option<String>,
    name: String,
    data: String,
    has_data: bool,
    ready: VecDeque<Event>,
}

impl Parser {
    /// Takes the next bytes of the stream, cut anywhere.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        for &byte in bytes {
            let was_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if was_cr => {}
                b'\n' | b'\r' => self.end_line()?,
                _ if self.line.len() >= EVENT_BYTES_MAX => return Err(too_large()),
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    /// The next complete event.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    fn end_line(&mut self) -> Result<(), CliError> {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let mut text = text.as_ref();
        if !std::mem::replace(&mut self.started, true) {
            text = text.strip_prefix('\u{feff}').unwrap_or(text);
        }
        if text.is_empty() {
            self.end_event();
            return Ok(());
        }
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if self.data.len() + value.len() >= EVENT_BYTES_MAX {
                    return Err(too_large());
                }
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data.push_str(value);
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            // Comments (an empty field name), `retry` and what a newer node may add.
            _ => {}
        }
        Ok(())
    }

    fn end_event(&mut self) {
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        if !std::mem::take(&mut self.has_data) {
            return;
        }
        let name = if name.is_empty() { "message".to_owned() } else { name };
        self.ready.push_back(Event {
            id: self.id.clone(),
            name,
            data,
        });
    }
}

fn too_large() -> CliError {
    CliError::Protocol(format!("an event is larger than {EVENT_BYTES_MAX} bytes"))
}

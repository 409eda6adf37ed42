//! Headers: NATS's own block of bytes, the attributes of a message in the mesh, the names and values of a call.
//!
//! Between NATS clients a block travels as it is, in the extension `natsheaders` (base64, for extensions are text). What others can
//! use is said a second time in their own words, as in the NATS binding of CloudEvents: `Content-Type` is the media type,
//! `traceparent` and `tracestate` the trace, `ce-NAME` the extension `NAME`. A message of a Weft publisher comes to NATS clients in the
//! same words.

use std::fmt::Write as _;

use data_encoding::BASE64;
use weft_protocol::{limits::HEADERS_MAX, patterns::request_response::check_headers};

use crate::patterns::pub_sub::{PublishOptions, Received};

/// How a block begins.
pub(super) const BEGIN: &str = "NATS/1.0";
/// A block that travels; more does not fit among a message's attributes.
pub(super) const BLOCK_BYTES_MAX: usize = 4096;
/// Of what is said a second time.
const SECOND_BYTES_MAX: usize = 1024;

/// The block as NATS clients wrote it.
pub(super) const BLOCK: &str = "natsheaders";
/// Where answers go.
const REPLY: &str = "natsreply";
/// Says that a NATS door published it, and for whom: `all`, or `plain` when a queue group is served otherwise.
pub(super) const DOOR: &str = "natsdoor";

/// Whether bytes are a block of headers from its beginning to its end.
pub(super) fn is_block(bytes: &[u8]) -> bool {
    bytes.starts_with(BEGIN.as_bytes()) && bytes.ends_with(b"\r\n\r\n")
}

/// The names and values of a block; what is not of their form is left out.
pub(super) fn fields(block: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let text = std::str::from_utf8(block).unwrap_or_default();
    text.split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim(), value.trim()))
        .filter(|(name, _)| !name.is_empty())
}

/// The first value of a name, whatever its case.
pub(super) fn field<'a>(block: &'a [u8], wanted: &str) -> Option<&'a str> {
    fields(block)
        .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
        .map(|(_, value)| value)
}

/// A block of these names and values. Line ends within them would begin other headers: such pairs are left out.
pub(super) fn block<'a>(status: &str, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut text = format!("{BEGIN}{status}\r\n");
    let breaks = |part: &str| part.contains(['\r', '\n']);
    for (name, value) in pairs {
        if !name.is_empty() && !name.contains(':') && !breaks(name) && !breaks(value) {
            // Writing to a string does not fail.
            let _ = write!(text, "{name}: {value}\r\n");
        }
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// What a client's message is in the mesh. `is_plain`: queue groups are not to be served by it.
pub(super) fn to_mesh(block: &[u8], reply: Option<&str>, is_plain: bool) -> PublishOptions {
    let mut options = PublishOptions {
        extensions: vec![(DOOR.to_owned(), if is_plain { "plain" } else { "all" }.to_owned())],
        ..PublishOptions::default()
    };
    if let Some(reply) = reply {
        options.extensions.push((REPLY.to_owned(), reply.to_owned()));
    }
    if block.is_empty() {
        return options;
    }
    options.extensions.push((BLOCK.to_owned(), BASE64.encode(block)));
    let mut left = SECOND_BYTES_MAX;
    for (name, value) in fields(block) {
        let name = name.to_ascii_lowercase();
        let cost = name.len() + value.len();
        if cost > left || value.chars().any(char::is_control) || options.extensions.len() >= HEADERS_MAX / 4 {
            continue;
        }
        let extension = match name.as_str() {
            "content-type" => {
                options.content_type.get_or_insert_with(|| value.to_owned());
                left -= cost;
                continue;
            }
            "traceparent" | "tracestate" => name.as_str(),
            other => other.strip_prefix("ce-").unwrap_or_default(),
        };
        if is_extension(extension) && options.extensions.iter().all(|(known, _)| known != extension) {
            options.extensions.push((extension.to_owned(), value.to_owned()));
            left -= cost;
        }
    }
    options
}

/// Whether it may be the name of an extension of ours: what the specification allows, and nothing it or the door gives itself.
fn is_extension(name: &str) -> bool {
    const TAKEN: [&str; 13] = [
        "id",
        "source",
        "type",
        "subject",
        "time",
        "datacontenttype",
        "dataschema",
        "data",
        "specversion",
        BLOCK,
        REPLY,
        DOOR,
        "weftpublisher",
    ];
    (1..=20).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && !TAKEN.contains(&name)
}

/// What a message of the mesh says to NATS clients.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FromMesh {
    /// The block of headers; empty when there is none.
    pub(super) headers: Vec<u8>,
    /// Where answers go.
    pub(super) reply: Option<String>,
    /// Whether it came through a NATS door.
    pub(super) from_door: bool,
    /// Whether queue groups are not meant.
    pub(super) is_plain: bool,
}

/// Reads a message of the mesh.
pub(super) fn from_mesh(message: &Received) -> FromMesh {
    let attributes = message.attributes();
    let door = attributes.extension(DOOR);
    let headers = match attributes.extension(BLOCK) {
        Some(text) => BASE64
            .decode(text.as_bytes())
            .ok()
            .filter(|block| is_block(block))
            .unwrap_or_default(),
        None if door.is_some() => Vec::new(),
        None => cloud_event(message),
    };
    FromMesh {
        headers,
        reply: attributes.extension(REPLY).map(ToOwned::to_owned),
        from_door: door.is_some(),
        is_plain: door == Some("plain"),
    }
}

/// The binary mode of the NATS binding of CloudEvents.
fn cloud_event(message: &Received) -> Vec<u8> {
    let attributes = message.attributes();
    let names: Vec<(String, &str)> = attributes
        .extensions
        .iter()
        .map(|(name, value)| match name.as_str() {
            "traceparent" | "tracestate" => (name.clone(), value.as_str()),
            _ => (format!("ce-{name}"), value.as_str()),
        })
        .collect();
    let (id, source) = (message.id(), message.source());
    let own = [
        ("ce-specversion", Some("1.0")),
        ("ce-id", Some(id.as_str())),
        ("ce-source", Some(source.as_str())),
        ("ce-type", Some(message.kind())),
        ("Content-Type", attributes.datacontenttype.as_deref()),
    ];
    let own = own.into_iter().filter_map(|(name, value)| Some((name, value?)));
    block("", own.chain(names.iter().map(|(name, value)| (name.as_str(), *value))))
}

/// A client's headers as those of a call; what a call cannot carry is left out.
pub(super) fn to_call(block: &[u8]) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for (name, value) in fields(block).take(HEADERS_MAX) {
        found.push((name.to_owned(), value.to_owned()));
        if check_headers(&found).is_err() {
            found.pop();
        }
    }
    found
}

/// A call's headers as a block; none where there are none.
pub(super) fn from_call(headers: &[(String, String)]) -> Vec<u8> {
    if headers.is_empty() {
        return Vec::new();
    }
    block("", headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

#[cfg(test)]
mod tests {
    use weft_protocol::patterns::pub_sub::Attributes;

    use super::*;
    use crate::patterns::pub_sub::received;

    fn attributes(options: PublishOptions) -> Attributes {
        let mut attributes = Attributes::new("a".parse().unwrap());
        attributes.datacontenttype = options.content_type;
        attributes.extensions = options.extensions;
        attributes
    }

    #[test]
    fn a_block_arrives_at_another_door_as_it_left() {
        let odd = b"NATS/1.0\r\nA: 1\r\nA: 2\r\nB\xff:\x01\r\ncontent-type: text/plain\r\nce-tenant: x\r\n\r\n";
        let sent = attributes(to_mesh(odd, Some("_WEFT.R.p.1"), true));
        sent.check().unwrap();
        let came = from_mesh(&received(sent, b""));
        assert_eq!(came.headers, odd);
        assert_eq!(came.reply.as_deref(), Some("_WEFT.R.p.1"));
        assert!(came.from_door && came.is_plain);
    }

    #[test]
    fn what_others_understand_is_said_in_their_words_too() {
        let block = b"NATS/1.0\r\nContent-Type: text/plain\r\nce-tenant: x\r\nce-id: 7\r\nce-natsdoor: all\r\n\r\n";
        let sent = attributes(to_mesh(block, None, false));
        assert_eq!(sent.datacontenttype.as_deref(), Some("text/plain"));
        assert_eq!(sent.extension("tenant"), Some("x"));
        assert_eq!(sent.extension("id"), None);
        assert!(!from_mesh(&received(sent, b"")).is_plain);
    }

    #[test]
    fn the_longest_block_fits_into_a_message() {
        let mut text = format!("{BEGIN}\r\n");
        for n in 0..12 {
            text.push_str(&format!("ce-x{n}: {}\r\n", "v".repeat(60)));
        }
        let fill = BLOCK_BYTES_MAX - text.len() - 7;
        text.push_str(&format!("a: {}\r\n\r\n", "b".repeat(fill)));
        assert_eq!(text.len(), BLOCK_BYTES_MAX);
        let mut sent = attributes(to_mesh(text.as_bytes(), Some(&"r".repeat(256)), false));
        sent.set_extension("traceparent", "0".repeat(55));
        sent.check().unwrap();
    }

    #[test]
    fn a_weft_message_is_a_cloud_event_to_nats_clients() {
        let mut sent = attributes(PublishOptions::default());
        sent.datacontenttype = Some("application/json".into());
        sent.set_extension("tenant", "x");
        let sent = received(sent, b"{}");
        let came = from_mesh(&sent);
        assert!(!came.from_door);
        assert_eq!(field(&came.headers, "CE-ID"), Some(sent.id().as_str()));
        assert_eq!(field(&came.headers, "ce-source"), Some(sent.source().as_str()));
        assert_eq!(field(&came.headers, "ce-type"), Some("io.weft.message.v1"));
        assert_eq!(field(&came.headers, "content-type"), Some("application/json"));
        assert_eq!(field(&came.headers, "ce-tenant"), Some("x"));
    }

    #[test]
    fn no_value_begins_another_header() {
        let made = block("", [("a", "1\r\nb: 2"), ("c", "3"), ("d\n", "4")]);
        assert_eq!(made, b"NATS/1.0\r\nc: 3\r\n\r\n");
    }

    #[test]
    fn what_a_call_cannot_carry_is_left_out() {
        let long = "v".repeat(9000);
        let block = block("", [("a", "1"), ("long", &long), ("with blank", "2"), ("b", "2")]);
        let names: Vec<String> = to_call(&block).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b"]);
    }
}

//! What the door says of itself, and what a client says of itself: the JSON of `INFO` and `CONNECT`.

use serde::{Deserialize, Serialize};

/// The server version clients are told. They decide by it what they may ask; this is the core of the protocol as of then.
pub(super) const SPOKEN_VERSION: &str = "2.10.0-weft";

/// The first words on every connection.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Info {
    pub(super) server_id: String,
    pub(super) server_name: String,
    pub(super) version: &'static str,
    pub(super) go: &'static str,
    pub(super) git_commit: &'static str,
    pub(super) proto: u8,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) headers: bool,
    /// Whether its API is answered.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) jetstream: bool,
    pub(super) max_payload: usize,
    pub(super) client_id: u64,
    pub(super) client_ip: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) auth_required: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) tls_required: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) tls_verify: bool,
    /// Where a client may go when this door is gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) connect_urls: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nonce: Option<String>,
    /// Lame duck: the client had better go elsewhere.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) ldm: bool,
}

impl Info {
    /// The line of the protocol.
    pub(super) fn line(&self) -> String {
        // Strings and numbers always have a JSON form.
        format!("INFO {}\r\n", serde_json::to_string(self).unwrap_or_default())
    }
}

/// What a client says first. Unknown keys are those of later clients.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Connect {
    pub(super) verbose: bool,
    pub(super) pedantic: bool,
    pub(super) headers: bool,
    pub(super) no_responders: bool,
    /// Whether the client wants its own messages; not said: yes.
    pub(super) echo: Option<bool>,
    pub(super) protocol: i64,
    pub(super) name: Option<String>,
    pub(super) lang: Option<String>,
    pub(super) version: Option<String>,
    pub(super) auth_token: Option<String>,
    pub(super) user: Option<String>,
    pub(super) pass: Option<String>,
    pub(super) nkey: Option<String>,
    pub(super) sig: Option<String>,
}

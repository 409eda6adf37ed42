//! A call as an HTTP request to a server of this machine or its network.
//!
//! Headers pass in both directions, but for those that are of one connection, or of the mesh. What of an answer is 2xx is one, with
//! its number in the header `status` unless that is 200; anything else is a failure with that code.
//!
//! Redirects are not followed and proxies from the environment are not used: a call goes where the user said and nowhere else.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use reqwest::{
    StatusCode, Url,
    header::{
        CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
        TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
    redirect,
};
use weft_protocol::limits::{HEADER_BYTES_MAX, HEADERS_MAX};

use super::{
    frame::Request,
    handler::{ANSWER_BYTES_MAX, Answer, Failure, REASON_BYTES_MAX},
};
use crate::{cli::CliError, patterns::request_response::STATUS};

/// The server behind a service.
#[derive(Debug, Clone)]
pub(super) struct Upstream {
    client: reqwest::Client,
    url: Url,
}

impl Upstream {
    /// A server at an `http` or `https` URL.
    pub(super) fn new(url: &str) -> Result<Self, CliError> {
        let wrong = |why: String| CliError::Usage(format!("--http `{}`: {why}", url.escape_debug()));
        let parsed = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(wrong("only http and https are possible".to_owned()));
        }
        let client = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("weft/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| CliError::Usage(format!("cannot make an HTTP client: {error}")))?;
        Ok(Self { client, url: parsed })
    }

    /// Posts one call. The caller's deadline is the handler's business.
    pub(super) async fn handle(&self, request: &Request, body: Bytes) -> Result<Answer, Failure> {
        let mut response = self.post(request, body.into()).await?;
        if !response.status().is_success() {
            return Err(Self::refusal(response).await);
        }
        let headers = Self::headers(&response)?;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failure(&error))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > ANSWER_BYTES_MAX {
                return Err(Failure::new(
                    502,
                    format!("the server's answer is larger than {ANSWER_BYTES_MAX} bytes"),
                ));
            }
        }
        Ok(Answer {
            headers,
            body: bytes.freeze(),
        })
    }

    /// Posts a body that comes as it comes, and returns when the server's answer begins.
    pub(super) async fn post(&self, request: &Request, body: reqwest::Body) -> Result<reqwest::Response, Failure> {
        let mut post = self.client.post(self.target(request)).body(body);
        for (name, value) in &request.headers {
            // A caller may send what HTTP has not; the mesh takes more characters.
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value))
                && passes(&name)
            {
                post = post.header(name, value);
            }
        }
        for (name, value) in [("weft-caller", &request.caller), ("traceparent", &request.traceparent)] {
            if let Some(value) = value {
                post = post.header(name, value);
            }
        }
        post.send().await.map_err(|error| failure(&error))
    }

    /// What an answer says besides its body, for the caller.
    pub(super) fn headers(response: &reqwest::Response) -> Result<BTreeMap<String, String>, Failure> {
        let mut headers = BTreeMap::<String, String>::new();
        for (name, value) in response.headers() {
            let Some(text) = value.to_str().ok().filter(|_| passes(name)) else {
                continue;
            };
            let all = headers.entry(name.as_str().to_owned()).or_default();
            // As RFC 9110 §5.2 joins them.
            *all = if all.is_empty() {
                text.to_owned()
            } else {
                format!("{all}, {text}")
            };
        }
        if response.status() != StatusCode::OK {
            headers.insert(STATUS.to_owned(), response.status().as_u16().to_string());
        }
        let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if headers.len() > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
            let limits = format!("more headers than {HEADERS_MAX}, or than {HEADER_BYTES_MAX} bytes of them");
            return Err(Failure::new(502, format!("the server's answer has {limits}")));
        }
        Ok(headers)
    }

    /// Why an answer that is no success is none.
    pub(super) async fn refusal(mut response: reqwest::Response) -> Failure {
        let status = response.status();
        let mut bytes = BytesMut::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > REASON_BYTES_MAX {
                break;
            }
        }
        bytes.truncate(REASON_BYTES_MAX);
        Failure::new(status.as_u16(), reason(status, &bytes))
    }

    /// The URL for an endpoint: one more segment on the path.
    fn target(&self, request: &Request) -> Url {
        let mut url = self.url.clone();
        if let Some(endpoint) = request.endpoint.as_deref().filter(|endpoint| !endpoint.is_empty())
            && let Ok(mut segments) = url.path_segments_mut()
        {
            segments.pop_if_empty().push(endpoint);
        }
        url
    }
}

/// Whether a header is for the other end: not of one connection (RFC 9110 §7.6.1), not where the request goes and how long it is, and not
/// the mesh's to say.
fn passes(name: &HeaderName) -> bool {
    const OF_ONE_CONNECTION: [HeaderName; 9] = [
        CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        HOST,
        CONTENT_LENGTH,
    ];
    let text = name.as_str();
    let is_ours =
        text.starts_with("weft-") || matches!(text, "traceparent" | STATUS | "keep-alive" | "proxy-connection");
    !is_ours && !OF_ONE_CONNECTION.contains(name)
}

fn reason(status: StatusCode, body: &[u8]) -> String {
    match String::from_utf8_lossy(body).trim() {
        "" => format!("the server answered {status}"),
        words => words.to_owned(),
    }
}

fn failure(error: &reqwest::Error) -> Failure {
    // The URL is the server's business, not the caller's.
    let words = if error.is_connect() {
        "the server behind the service cannot be reached"
    } else {
        "the server broke off"
    };
    let code = if error.is_connect() { 503 } else { 502 };
    Failure::new(code, words)
}

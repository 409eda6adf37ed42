//! Errors of the local API: `application/problem+json` (RFC 9457), made from an [`ErrorKind`].
//!
//! Handlers return `Result<_, Problem>`; the extractors here ([`Json`], [`Query`], [`Path`], [`Body`]) refuse with a problem too, so
//! that a client meets one form of error whatever it did wrong. A fault of the node's own is logged, and its detail is told: who
//! can use this API owns the node.

#[cfg(test)]
mod tests;

use std::error::Error as _;

use axum::{
    Router,
    extract::{FromRequest, FromRequestParts, Request, rejection::PathRejection},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde::{Serialize, de::DeserializeOwned};

use super::limits::BodyError;
use crate::error::{ErrorKind, Kind, NodeError, chain};

/// The media type of a problem.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// One failed request, as the client is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `urn:weft:error:<kind>`.
    #[serde(rename = "type")]
    problem_type: String,
    /// The kind in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What happened, naming the thing.
    detail: String,
    /// What sort of failure it is.
    kind: ErrorKind,
    /// Whether the same request may succeed later.
    retryable: bool,
    /// What can be done about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// The code a service gave to its own failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    /// When it may be worth another try.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

impl Problem {
    /// A problem of this kind, with the kind's own status.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self {
            problem_type: format!("urn:weft:error:{kind}"),
            title: kind.title(),
            status: kind.http_status(),
            detail: detail.into(),
            kind,
            retryable: kind.is_retryable(),
            hint: None,
            code: None,
            retry_after_ms: None,
        }
    }

    /// The same with a more exact status, such as 413 for a body that is too large.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status.as_u16();
        self
    }

    /// The same with advice.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with a time after which another try may be worth it.
    #[must_use]
    pub fn with_retry_after(mut self, pause: std::time::Duration) -> Self {
        self.retry_after_ms = Some(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// A failure of the called service itself, with the service's own code: 502.
    pub fn of_service(code: u16, reason: impl Into<String>) -> Self {
        // Whose time is over may hear so from the service a moment before it notices itself.
        let problem = match code {
            504 => Self::new(ErrorKind::Timeout, reason),
            _ => Self::new(ErrorKind::Internal, reason).with_status(StatusCode::BAD_GATEWAY),
        };
        Self {
            code: Some(code),
            ..problem
        }
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// What happened.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The document as JSON text.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("invariant: a problem has only text and numbers")
    }
}

impl From<NodeError> for Problem {
    fn from(error: NodeError) -> Self {
        Self {
            hint: error.hint().map(Into::into),
            ..Self::new(error.kind(), error.message())
        }
    }
}

impl<E: Kind> From<E> for Problem {
    fn from(error: E) -> Self {
        Self {
            hint: error.hint(),
            ..Self::new(error.kind(), chain(&error))
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if matches!(self.kind, ErrorKind::Internal | ErrorKind::Corrupt) && self.code.is_none() {
            tracing::warn!(kind = %self.kind, error = ?self.detail, "a request to the local API failed");
        }
        let (status, retry_after_ms) = (self.status(), self.retry_after_ms);
        let is_busy = self.kind == ErrorKind::Busy;
        let mut response = (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], self.to_json()).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if is_busy {
            // Whole seconds are all that this header knows.
            let seconds = retry_after_ms.unwrap_or(1000).div_ceil(1000).max(1);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Gives a router problems instead of empty answers for unknown paths and methods.
pub fn with_fallbacks<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
}

async fn unknown_path(request: Request) -> Problem {
    Problem::new(
        ErrorKind::NotFound,
        format!("there is nothing at {:?}", request.uri().path()),
    )
}

async fn unknown_method(request: Request) -> Problem {
    let detail = format!("{} is not possible at {:?}", request.method(), request.uri().path());
    Problem::new(ErrorKind::Invalid, detail).with_status(StatusCode::METHOD_NOT_ALLOWED)
}

/// The body of a request as bytes, within the limits of size and time.
#[derive(Debug, Clone)]
pub struct Body(pub Bytes);

impl<S: Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        match request.into_body().collect().await {
            Ok(collected) => Ok(Self(collected.to_bytes())),
            Err(error) => Err(body_problem(&error)),
        }
    }
}

/// What to tell a client whose body could not be read, if it is still there.
fn body_problem(error: &axum::Error) -> Problem {
    let mut cause = error.source();
    while let Some(inner) = cause {
        match inner.downcast_ref::<BodyError>() {
            Some(limit @ BodyError::TooLarge { .. }) => {
                return Problem::new(ErrorKind::Invalid, limit.to_string()).with_status(StatusCode::PAYLOAD_TOO_LARGE);
            }
            Some(limit @ BodyError::TooSlow { .. }) => {
                return Problem::new(ErrorKind::Timeout, limit.to_string()).with_status(StatusCode::REQUEST_TIMEOUT);
            }
            _ => cause = inner.source(),
        }
    }
    Problem::new(ErrorKind::Invalid, format!("the body cannot be read: {error}"))
}

/// A JSON body; also an answer in JSON. A request must say `content-type: application/json`, which a page of a foreign origin
/// cannot do without being asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let detail = "the body must be JSON, with the header content-type: application/json";
            return Err(Problem::new(ErrorKind::Invalid, detail).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let Body(bytes) = Body::from_request(request, state).await?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| Problem::new(ErrorKind::Invalid, format!("the body is not what is expected: {error}")))
    }
}

fn is_json(headers: &axum::http::HeaderMap) -> bool {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => {
                Problem::new(ErrorKind::Internal, format!("cannot write the answer as JSON: {error}")).into_response()
            }
        }
    }
}

/// The query of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|error| {
                Problem::new(
                    ErrorKind::Invalid,
                    format!("the query is not what is expected: {}", chain(&error)),
                )
            })
    }
}

/// The variable parts of a path, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(error)) if error.status() == StatusCode::BAD_REQUEST => {
                Err(Problem::new(
                    ErrorKind::Invalid,
                    format!("the path is not what is expected: {}", error.body_text()),
                ))
            }
            Err(error) => Err(Problem::new(
                ErrorKind::Internal,
                format!("the path cannot be read: {}", error.body_text()),
            )),
        }
    }
}

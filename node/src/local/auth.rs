//! Who may use the local API.
//!
//! Over TCP a request must show the token that lies in a file only the node's user can read; being on the same machine is not
//! enough, for every local user and every web page in a browser is that. A web page is kept out twice more: the `Host` must be this
//! machine (against DNS rebinding), and an `Origin` must be this API's own or one the configuration names (against cross-site
//! requests). Over the Unix socket the system tells who calls: the node's own user and root may, without a token.
//!
//! `/healthz` and `/readyz` need no token. Not promised: protection against other programs of the same user.

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, uri::Authority},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use data_encoding::BASE32_NOPAD_NOCASE;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::problem::{Problem, with_fallbacks};
use crate::{
    config::ApiConfig,
    data_dir::{DataDirError, Existing, read_private, write_private},
    error::{ErrorKind, Kind as _},
};

const TOKEN_BYTES: usize = 32;
const TOKEN_FILE_BYTES_MAX: u64 = 1024;

/// The name of the token's file in the data folder.
pub const TOKEN_FILE: &str = "api.token";

const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// How a connection reached the API; every request carries it as an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Over TCP, from this address.
    Tcp(SocketAddr),
    /// Over the Unix socket, from a process of this user.
    Unix {
        /// The user's number.
        uid: u32,
        /// The process, where the system tells.
        pid: Option<i32>,
    },
}

/// The secret that opens the API over TCP.
#[derive(Clone)]
pub struct ApiToken(Zeroizing<String>);

impl std::fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiToken(…)")
    }
}

impl ApiToken {
    /// A new token of 32 random bytes.
    pub fn generate(entropy: &mut dyn FnMut(&mut [u8])) -> Self {
        let mut bytes = Zeroizing::new([0; TOKEN_BYTES]);
        entropy(bytes.as_mut());
        let mut text = Zeroizing::new(BASE32_NOPAD_NOCASE.encode(bytes.as_ref()));
        text.make_ascii_lowercase();
        Self(text)
    }

    /// The token in this file; a new one, kept there, when there is none, when it is not one, or when `rotate` is set.
    pub fn load_or_create(
        path: &std::path::Path,
        rotate: bool,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Self, DataDirError> {
        if !rotate {
            match read_private(path, TOKEN_FILE_BYTES_MAX) {
                Ok(bytes) => {
                    if let Some(token) = Self::parse(&bytes) {
                        return Ok(token);
                    }
                    tracing::warn!(path = ?path, "the API token's file is damaged, a new token is made");
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let token = Self::generate(entropy);
        let line = Zeroizing::new(format!("{}\n", token.expose()));
        write_private(path, line.as_bytes(), Existing::Replace)?;
        Ok(token)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.trim_ascii();
        let decoded = Zeroizing::new(BASE32_NOPAD_NOCASE.decode(text.as_bytes()).ok()?);
        (decoded.len() == TOKEN_BYTES).then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// The token itself, for whoever must write it down.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether this is the token; takes the same time whatever is presented, apart from its length.
    pub fn matches(&self, presented: &[u8]) -> bool {
        // Of the hashes, so that neither the length nor the place of the first difference shows.
        Sha256::digest(self.0.as_bytes())
            .ct_eq(&Sha256::digest(presented))
            .into()
    }
}

/// The rules of the door.
#[derive(Debug)]
pub struct Access {
    token: ApiToken,
    /// The address the API listens on over TCP.
    listen: Option<SocketAddr>,
    user: u32,
    lists: RwLock<Lists>,
}

#[derive(Debug, Default)]
struct Lists {
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl Access {
    /// The rules for an API that listens on `listen` (with the port really bound).
    pub fn new(token: ApiToken, listen: Option<SocketAddr>, config: &ApiConfig) -> Arc<Self> {
        let user = rustix::process::geteuid().as_raw();
        let access = Self {
            token,
            listen,
            user,
            lists: RwLock::default(),
        };
        access.reload(config);
        Arc::new(access)
    }

    /// Takes over the allowed hosts and origins, which can change while the node runs.
    pub fn reload(&self, config: &ApiConfig) {
        let lower = |list: &[String]| list.iter().map(|text| text.to_ascii_lowercase()).collect();
        let lists = Lists {
            hosts: lower(&config.hosts),
            origins: lower(&config.origins),
        };
        *self.lists.write().unwrap_or_else(PoisonError::into_inner) = lists;
    }

    fn with_lists<T>(&self, f: impl FnOnce(&Lists) -> T) -> T {
        f(&self.lists.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a request may come in.
    fn check(&self, request: &Request) -> Result<(), Problem> {
        let via = request.extensions().get::<Via>().copied();
        if let Some(Via::Unix { uid, .. }) = via {
            self.check_origin(request)?;
            return if uid == self.user || uid == 0 {
                Ok(())
            } else {
                Err(denied(format!("user {uid} may not use this node's API")))
            };
        }
        // Without a `Via` nobody vouches for the connection: the stricter rules hold.
        self.check_host(request)?;
        self.check_origin(request)?;
        if OPEN_PATHS.contains(&request.uri().path()) {
            return Ok(());
        }
        self.check_token(request.headers())
    }

    fn check_host(&self, request: &Request) -> Result<(), Problem> {
        let wrong = |detail: &str| Problem::new(ErrorKind::Invalid, detail);
        let mut hosts = request.headers().get_all(header::HOST).iter();
        match (hosts.next(), hosts.next()) {
            (Some(host), None) => {
                let host = host.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
                self.check_authority(&host.ok_or_else(|| wrong("the Host header cannot be read"))?)?;
            }
            (None, _) => return Err(wrong("there is no Host header")),
            (Some(_), Some(_)) => return Err(wrong("there are two Host headers")),
        }
        request
            .uri()
            .authority()
            .map_or(Ok(()), |authority| self.check_authority(authority))
    }

    fn check_authority(&self, authority: &Authority) -> Result<(), Problem> {
        let host = authority.host().to_ascii_lowercase();
        let refused = || {
            let detail = format!("requests to the host {:?} are refused", shorten(authority.as_str()));
            denied(detail).with_hint("use the address that `weft status` shows, or add the name to api.hosts")
        };
        if authority.as_str().contains('@') {
            return Err(refused());
        }
        // A name from the configuration may belong to a proxy, with a port of its own.
        if self.with_lists(|lists| lists.hosts.contains(&host)) {
            return Ok(());
        }
        let port = authority.port_u16().unwrap_or(80);
        let ours = self
            .listen
            .is_some_and(|listen| listen.port() == port && names(&host, listen.ip()));
        if ours { Ok(()) } else { Err(refused()) }
    }

    fn check_origin(&self, request: &Request) -> Result<(), Problem> {
        let mut origins = request.headers().get_all(header::ORIGIN).iter();
        let Some(origin) = origins.next() else { return Ok(()) };
        let text = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        if origins.next().is_none() && (self.is_allowed_origin(&text) || self.is_same_origin(&text)) {
            return Ok(());
        }
        Err(
            denied(format!("requests from pages of {:?} are refused", shorten(&text)))
                .with_hint("add the origin to api.origins"),
        )
    }

    fn is_allowed_origin(&self, origin: &str) -> bool {
        self.with_lists(|lists| lists.origins.iter().any(|allowed| allowed == origin))
    }

    /// The API itself serves a page's origin only over plain HTTP on its own address.
    fn is_same_origin(&self, origin: &str) -> bool {
        let authority = origin
            .strip_prefix("http://")
            .and_then(|rest| rest.parse::<Authority>().ok());
        let Some((authority, listen)) = authority.zip(self.listen) else {
            return false;
        };
        authority.port_u16().unwrap_or(80) == listen.port() && names(authority.host(), listen.ip())
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let refused = |detail: &str| {
            let hint = format!(
                "send the header authorization: Bearer TOKEN, with the token from {TOKEN_FILE} in the data directory"
            );
            denied(detail).with_status(StatusCode::UNAUTHORIZED).with_hint(hint)
        };
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let value = match (values.next(), values.next()) {
            (None, _) => return Err(refused("the request has no token")),
            (Some(_), Some(_)) => return Err(refused("the request has two authorization headers")),
            (Some(value), None) => value.as_bytes(),
        };
        // The scheme's name has no case (RFC 9110, 11.1).
        match value.split_at_checked(7) {
            Some((scheme, token))
                if scheme.eq_ignore_ascii_case(b"bearer ") && self.token.matches(token.trim_ascii()) =>
            {
                Ok(())
            }
            _ => Err(refused("the request's token is not this node's")),
        }
    }
}

fn denied(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorKind::Denied, detail)
}

fn shorten(text: &str) -> String {
    text.chars().take(128).collect()
}

/// Whether a host in a URL means this address, or this machine when the address is its loopback.
fn names(host: &str, ip: IpAddr) -> bool {
    let literal = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    match literal.parse::<IpAddr>() {
        // A page cannot make an address of digits point elsewhere, so where the API listens on all, all are good.
        Ok(named) => named == ip || named.is_loopback() || ip.is_unspecified(),
        Err(_) => host == "localhost" || host == "localhost.",
    }
}

/// Puts the rules in front of a whole router, and problems behind it for unknown paths and methods.
pub fn protect(router: Router, access: Arc<Access>) -> Router {
    with_fallbacks(router).layer(middleware::from_fn_with_state(access, guard))
}

async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let shared = origin.filter(|value| {
        value
            .to_str()
            .is_ok_and(|text| access.is_allowed_origin(&text.to_ascii_lowercase()))
    });
    // A browser asks without the token first whether it may send it.
    let is_preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match access.check(&request) {
        Err(problem) if is_preflight && shared.is_some() && problem.status() == StatusCode::UNAUTHORIZED => preflight(),
        Err(problem) => {
            tracing::debug!(reason = problem.detail(), "a request to the local API was refused");
            problem.into_response()
        }
        Ok(()) if is_preflight && shared.is_some() => preflight(),
        Ok(()) => next.run(request).await,
    };
    if let Some(origin) = shared {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("weft-node, weft-rtt-ms, location"),
        );
    }
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn preflight() -> Response {
    const ALLOW: [(HeaderName, &str); 3] = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, DELETE"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, last-event-id, weft-node, weft-timeout-ms",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (StatusCode::NO_CONTENT, ALLOW).into_response()
}

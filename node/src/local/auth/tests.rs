use axum::{body::Body, routing::get};
use http_body_util::BodyExt as _;
use tower_service::Service as _;

use super::*;

const LISTEN: &str = "127.0.0.1:7480";

fn token() -> ApiToken {
    ApiToken::generate(&mut |room| room.fill(7))
}

fn access(config: ApiConfig) -> Arc<Access> {
    Access::new(token(), Some(LISTEN.parse().unwrap()), &config)
}

fn tcp() -> Via {
    Via::Tcp("127.0.0.1:50000".parse().unwrap())
}

/// A request with the right host and token, to be spoiled.
fn good() -> Request {
    let mut request = Request::get("/v1/status").body(Body::empty()).unwrap();
    set(&mut request, "host", LISTEN);
    set(&mut request, "authorization", &format!("Bearer {}", token().expose()));
    request.extensions_mut().insert(tcp());
    request
}

fn set(request: &mut Request, name: &'static str, value: &str) {
    request.headers_mut().insert(name, value.parse().unwrap());
}

async fn send(access: &Arc<Access>, request: Request) -> Response {
    let router = Router::new()
        .route("/v1/status", get(|| async { "in" }).post(|| async { "in" }))
        .route("/healthz", get(|| async { "in" }));
    protect(router, Arc::clone(access)).call(request).await.unwrap()
}

async fn status(access: &Arc<Access>, request: Request) -> u16 {
    send(access, request).await.status().as_u16()
}

/// The status when one header of a good request is changed; nothing removes it.
async fn with_header(access: &Arc<Access>, name: &'static str, value: Option<&str>) -> u16 {
    let mut request = good();
    request.headers_mut().remove(name);
    if let Some(value) = value {
        set(&mut request, name, value);
    }
    status(access, request).await
}

#[tokio::test]
async fn only_the_token_opens() {
    let access = access(ApiConfig::default());
    let token = token();
    let right = token.expose();
    assert_eq!(
        with_header(&access, "authorization", Some(&format!("Bearer {right}"))).await,
        200
    );
    assert_eq!(
        with_header(&access, "authorization", Some(&format!("bEARER  {right} "))).await,
        200
    );
    let mut last = right.to_owned();
    last.pop();
    for bad in [
        "",
        "Bearer",
        "Bearer ",
        right,
        "Basic d2VmdDo=",
        &format!("Bearer {last}"),
        &format!("Bearer {right}x"),
        &format!("Bearer {}", "a".repeat(10_000)),
    ] {
        assert_eq!(with_header(&access, "authorization", Some(bad)).await, 401, "{bad}");
    }
    let response = {
        let mut request = good();
        request.headers_mut().remove("authorization");
        send(&access, request).await
    };
    assert_eq!(
        (
            response.status().as_u16(),
            response.headers()["www-authenticate"].to_str().unwrap()
        ),
        (401, "Bearer")
    );
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["kind"], "denied");
    let mut two = good();
    two.headers_mut()
        .append("authorization", format!("Bearer {right}").parse().unwrap());
    assert_eq!(status(&access, two).await, 401);
}

#[tokio::test]
async fn what_there_is_shows_only_to_those_with_the_token() {
    let access = access(ApiConfig::default());
    for (path, with, without) in [
        ("/nothing", 404, 401),
        ("/healthz", 200, 200),
        ("/healthz/", 404, 401),
        ("/readyz", 404, 404),
    ] {
        let request = |authorized: bool| {
            let mut request = good();
            *request.uri_mut() = path.parse().unwrap();
            if !authorized {
                request.headers_mut().remove("authorization");
            }
            request
        };
        assert_eq!(status(&access, request(true)).await, with, "{path}");
        assert_eq!(status(&access, request(false)).await, without, "{path}");
    }
}

#[tokio::test]
async fn only_this_machine_is_a_host() {
    let config = ApiConfig {
        hosts: vec!["Weft.lan".into()],
        ..ApiConfig::default()
    };
    let access = access(config);
    for host in [
        LISTEN,
        "localhost:7480",
        "LOCALHOST:7480",
        "[::1]:7480",
        "127.9.9.9:7480",
        "weft.lan",
        "weft.lan:443",
    ] {
        assert_eq!(with_header(&access, "host", Some(host)).await, 200, "{host}");
    }
    let bad = [
        "rebinding.example:7480",
        "evil.weft.lan",
        "localhost.evil:7480",
        "localhost",
        "127.0.0.1",
        "localhost:80",
        "10.0.0.1:7480",
        "user@localhost:7480",
        "localhost:99999",
    ];
    for host in bad {
        assert_eq!(with_header(&access, "host", Some(host)).await, 403, "{host}");
    }
    for host in [None, Some(""), Some("a b")] {
        assert_eq!(with_header(&access, "host", host).await, 400, "{host:?}");
    }
    let mut two = good();
    two.headers_mut().append("host", LISTEN.parse().unwrap());
    assert_eq!(status(&access, two).await, 400);
    // An absolute target counts as much as the header.
    let mut absolute = good();
    *absolute.uri_mut() = "http://evil.example/v1/status".parse().unwrap();
    assert_eq!(status(&access, absolute).await, 403);
    // Also where no token is asked for.
    let mut health = good();
    *health.uri_mut() = "/healthz".parse().unwrap();
    set(&mut health, "host", "rebinding.example");
    assert_eq!(status(&access, health).await, 403);
}

#[tokio::test]
async fn an_api_open_to_other_machines_takes_addresses_but_no_foreign_names() {
    let access = Access::new(token(), Some("0.0.0.0:7480".parse().unwrap()), &ApiConfig::default());
    assert_eq!(with_header(&access, "host", Some("192.168.1.5:7480")).await, 200);
    assert_eq!(with_header(&access, "host", Some("rebinding.example:7480")).await, 403);
}

#[tokio::test]
async fn pages_of_other_origins_are_kept_out() {
    let config = ApiConfig {
        origins: vec!["https://Panel.example".into()],
        ..ApiConfig::default()
    };
    let access = access(config);
    for origin in [
        "http://127.0.0.1:7480",
        "http://localhost:7480",
        "https://panel.example",
    ] {
        assert_eq!(with_header(&access, "origin", Some(origin)).await, 200, "{origin}");
    }
    for origin in [
        "null",
        "",
        "https://evil.example",
        "http://127.0.0.1:8080",
        "https://127.0.0.1:7480",
        "http://localhost",
        "https://panel.example:444",
        "file://",
    ] {
        assert_eq!(with_header(&access, "origin", Some(origin)).await, 403, "{origin}");
    }
}

#[tokio::test]
async fn only_allowed_pages_may_read_answers() {
    let config = ApiConfig {
        origins: vec!["https://panel.example".into()],
        ..ApiConfig::default()
    };
    let access = access(config);
    let allowed = |origin: &'static str| {
        let mut request = good();
        set(&mut request, "origin", origin);
        request
    };
    let response = send(&access, allowed("https://panel.example")).await;
    assert_eq!(
        response.headers()["access-control-allow-origin"],
        "https://panel.example"
    );
    let mut unauthorized = allowed("https://panel.example");
    unauthorized.headers_mut().remove("authorization");
    assert_eq!(
        send(&access, unauthorized).await.headers()["access-control-allow-origin"],
        "https://panel.example"
    );
    for origin in ["http://127.0.0.1:7480", "https://evil.example"] {
        assert!(
            !send(&access, allowed(origin))
                .await
                .headers()
                .contains_key("access-control-allow-origin")
        );
    }
    let preflight = |origin: &'static str| {
        let mut request = allowed(origin);
        *request.method_mut() = Method::OPTIONS;
        request.headers_mut().remove("authorization");
        set(&mut request, "access-control-request-method", "POST");
        request
    };
    assert_eq!(status(&access, preflight("https://panel.example")).await, 204);
    assert_eq!(status(&access, preflight("https://evil.example")).await, 403);
    let mut rebound = preflight("https://panel.example");
    set(&mut rebound, "host", "rebinding.example:7480");
    assert_eq!(status(&access, rebound).await, 403);
    access.reload(&ApiConfig::default());
    assert_eq!(status(&access, allowed("https://panel.example")).await, 403);
}

#[tokio::test]
async fn over_the_socket_the_user_counts_and_not_the_token() {
    let access = access(ApiConfig::default());
    let own = rustix::process::geteuid().as_raw();
    for (uid, expected) in [(own, 200), (0, 200), (own + 1, 403), (u32::MAX, 403)] {
        let mut request = Request::get("/v1/status").body(Body::empty()).unwrap();
        request.extensions_mut().insert(Via::Unix { uid, pid: None });
        assert_eq!(status(&access, request).await, expected, "user {uid}");
    }
    let mut page = Request::get("/v1/status")
        .header("origin", "https://evil.example")
        .body(Body::empty())
        .unwrap();
    page.extensions_mut().insert(Via::Unix { uid: own, pid: None });
    assert_eq!(status(&access, page).await, 403);
}

#[tokio::test]
async fn a_connection_nobody_vouches_for_needs_the_token() {
    let access = access(ApiConfig::default());
    let request = Request::get("/v1/status")
        .header("host", LISTEN)
        .body(Body::empty())
        .unwrap();
    assert_eq!(status(&access, request).await, 401);
}

#[test]
fn the_token_is_kept_and_can_be_exchanged() {
    use std::{fs, os::unix::fs::PermissionsExt as _};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(TOKEN_FILE);
    let mut next = 0;
    let mut entropy = |room: &mut [u8]| {
        next += 1;
        room.fill(next);
    };
    let first = ApiToken::load_or_create(&path, false, &mut entropy).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", first.expose()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(first.expose().len() >= 43, "32 bytes must not be shortened");
    let again = ApiToken::load_or_create(&path, false, &mut entropy).unwrap();
    assert!(again.matches(first.expose().as_bytes()));
    let rotated = ApiToken::load_or_create(&path, true, &mut entropy).unwrap();
    assert!(!rotated.matches(first.expose().as_bytes()));
    for damage in ["", "short", &"!".repeat(52)] {
        fs::write(&path, damage).unwrap();
        let fresh = ApiToken::load_or_create(&path, false, &mut entropy).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), fresh.expose());
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(
        ApiToken::load_or_create(&path, false, &mut entropy),
        Err(DataDirError::TooOpen { .. })
    ));
    assert!(!format!("{rotated:?}").contains(rotated.expose()));
}

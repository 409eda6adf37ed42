use super::*;

#[test]
fn the_document_is_as_agreed() {
    let problem = Problem::from(NodeError::not_found("no member \"x\"").with_hint("see `weft member ls`"));
    let value: serde_json::Value = serde_json::from_str(&problem.to_json()).unwrap();
    assert_eq!(
        value,
        serde_json::json!({
            "type": "urn:weft:error:not_found",
            "title": "Not found",
            "status": 404,
            "detail": "no member \"x\"",
            "kind": "not_found",
            "retryable": false,
            "hint": "see `weft member ls`",
        })
    );
}

#[test]
fn every_kind_has_its_status_and_some_have_headers() {
    for kind in ErrorKind::ALL {
        let response = Problem::new(kind, "x").into_response();
        assert_eq!(response.status().as_u16(), kind.http_status());
        assert_eq!(response.headers()[header::CONTENT_TYPE], CONTENT_TYPE);
        assert_eq!(
            response.headers().contains_key(header::RETRY_AFTER),
            kind == ErrorKind::Busy
        );
    }
}

#[test]
fn a_failure_of_a_service_is_a_502_with_the_services_code() {
    let problem = Problem::of_service(42, "no such order");
    assert_eq!(problem.status(), StatusCode::BAD_GATEWAY);
    let value: serde_json::Value = serde_json::from_str(&problem.to_json()).unwrap();
    assert_eq!(
        (&value["code"], &value["kind"], &value["detail"]),
        (&42.into(), &"internal".into(), &"no such order".into())
    );
}

#[test]
fn what_counts_as_json() {
    for (value, expected) in [
        ("application/json", true),
        ("Application/JSON; charset=utf-8", true),
        ("application/cloudevents+json", true),
        ("text/plain", false),
        ("text/json", false),
        ("application/x-www-form-urlencoded", false),
        ("application/jsonp", false),
        ("", false),
    ] {
        let headers = [(header::CONTENT_TYPE, value.parse().unwrap())].into_iter().collect();
        assert_eq!(is_json(&headers), expected, "{value}");
    }
    assert!(!is_json(&axum::http::HeaderMap::new()));
}

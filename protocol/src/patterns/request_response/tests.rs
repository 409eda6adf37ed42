use super::*;
use crate::limits::{SCHEMA_BYTES_MAX, SCHEMAS_BYTES_MAX};
use crate::{MeshId, Signed};

fn endpoints(names: &[&str]) -> Vec<EndpointInfo> {
    names.iter().copied().map(EndpointInfo::new).collect()
}

fn request() -> CallRequest {
    CallRequest {
        headers: vec![
            (String::from("a"), String::from("1")),
            (String::from("a"), String::from("2")),
        ],
        ..CallRequest::new("stock", "count", Vec::new())
    }
}

fn refused(change: impl FnOnce(&mut CallRequest)) -> String {
    let mut request = request();
    change(&mut request);
    CallRequest::from_bytes(&request.to_bytes()).unwrap_err().to_string()
}

#[test]
fn every_field_has_a_limit() {
    assert_eq!(CallRequest::from_bytes(&request().to_bytes()), Ok(request()));
    assert!(refused(|r| r.service = "a.b".to_owned()).starts_with("service is"));
    for bad in ["", "a b", "ä", "a.", ".a", "a..b", &"a".repeat(65)] {
        assert!(
            refused(|r| r.service = bad.to_owned()).starts_with("service is"),
            "{bad:?}"
        );
        assert!(
            refused(|r| r.endpoint = bad.to_owned()).starts_with("endpoint is"),
            "{bad:?}"
        );
    }
    let header = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    for bad in ["", "a b", "a:", "ä", "a\n"] {
        assert!(
            refused(|r| r.headers = header(bad, "v")).starts_with("header is invalid"),
            "{bad:?}"
        );
    }
    assert!(refused(|r| r.headers = header("a", "v\r\nx: y")).starts_with("header value is invalid"));
    assert!(refused(|r| r.headers = header("a", &"v".repeat(8192))).starts_with("headers is too large"));
    assert!(refused(|r| r.headers = vec![Default::default(); 65]).contains("65 entries, the limit is 64"));
    assert!(refused(|r| r.instance = Some(String::new())).starts_with("service instance is"));
    assert!(refused(|r| r.version = Some("1".repeat(129))).starts_with("version requirement is too large"));
    assert!(refused(|r| r.idempotency_key = Some("a\n".into())).starts_with("idempotency key is invalid"));
    assert!(refused(|r| r.body = vec![0; DIRECT_BODY_BYTES_MAX + 1]).starts_with("body is too large"));
}

#[test]
fn the_largest_call_is_sent_and_read() {
    let mut request = request();
    request.body = vec![0x55; DIRECT_BODY_BYTES_MAX];
    request.headers = vec![(String::from("a"), "v".repeat(HEADER_BYTES_MAX - 1))];
    assert_eq!(
        CallRequest::from_bytes(&request.to_checked_bytes().unwrap()),
        Ok(request)
    );
}

#[test]
fn a_failure_can_always_be_sent() {
    let failed = CallResponse::failed(500, &"long\n".repeat(1000));
    assert_eq!(
        CallResponse::from_bytes(&failed.to_checked_bytes().unwrap()),
        Ok(failed)
    );
    let long = CallResponse::Failed {
        code: 1,
        reason: "a".repeat(257),
        load: None,
        receipt: None,
    };
    assert!(CallResponse::from_bytes(&long.to_bytes()).is_err());
}

#[test]
fn a_service_announces_itself_properly() {
    let service = |version: &str| ServiceInfo {
        name: String::from("stock"),
        version: version.to_owned(),
        id: String::from("a1"),
        metadata: Vec::new(),
        endpoints: endpoints(&["count", "reserve", "admin.reset"]),
        zone: None,
        draining: None,
    };
    for good in ["0.0.0", "1.2.3", "10.20.30-rc.1+build.5", "1.0.0+x"] {
        let list = ServiceList(vec![service(good)]);
        assert_eq!(
            ServiceList::from_bytes(&list.to_checked_bytes().unwrap()),
            Ok(list),
            "{good}"
        );
    }
    for bad in [
        "", "1", "1.2", "1.2.3.4", "01.2.3", "1.2.x", "1.2.+3", "1.2.3-", "1.2.3-ä", "v1.2.3", "1.2.3 ",
    ] {
        let error = ServiceList(vec![service(bad)])
            .to_checked_bytes()
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("service version is invalid"), "{bad:?}: {error}");
    }
    let twice = ServiceList(vec![service("1.0.0"), service("1.0.0")]);
    assert!(
        twice
            .to_checked_bytes()
            .unwrap_err()
            .to_string()
            .contains("occurs twice")
    );
    let mut many = service("1.0.0");
    many.endpoints = endpoints(&["count", "count"]);
    assert!(
        ServiceList(vec![many])
            .to_checked_bytes()
            .unwrap_err()
            .to_string()
            .contains("occurs twice")
    );
}

#[test]
fn a_dot_in_an_endpoints_name_makes_a_group() {
    assert_eq!(EndpointInfo::new("admin.users.reset").group(), Some("admin.users"));
    assert_eq!(EndpointInfo::new("count").group(), None);
}

#[test]
fn schemas_have_limits_one_by_one_and_together() {
    let reply = |sizes: &[usize]| QuestionReply::Schemas {
        instances: vec![InstanceSchemas {
            id: String::from("a1"),
            endpoints: sizes
                .iter()
                .enumerate()
                .map(|(n, size)| EndpointSchema {
                    name: format!("e{n}"),
                    schema: "x".repeat(*size),
                })
                .collect(),
        }],
    };
    assert!(reply(&[SCHEMA_BYTES_MAX]).to_checked_bytes().is_ok());
    assert!(reply(&[SCHEMA_BYTES_MAX + 1]).to_checked_bytes().is_err());
    assert!(
        reply(&[SCHEMA_BYTES_MAX; SCHEMAS_BYTES_MAX / SCHEMA_BYTES_MAX + 1])
            .to_checked_bytes()
            .is_err()
    );
}

#[test]
fn a_receipt_is_its_signers_and_holds_by_itself() {
    use crate::testing::{NOW_MS, member, public, secret};
    let chain = member(3, &["worker"], &["call:stock"]);
    let mesh = MeshId::from_root(&chain.root().unwrap());
    let receipt = Receipt {
        mesh,
        chain,
        caller: public(4),
        service: "stock".into(),
        endpoint: "count".into(),
        instance: "a1".into(),
        version: "1.2.3".into(),
        nonce: [1; 16],
        request_sha256: [2; 32],
        answer_sha256: [3; 32],
        failed: None,
        received_at_ms: NOW_MS,
        answered_at_ms: NOW_MS + 5,
    };
    let signed = Signed::sign(&receipt, &secret(3)).unwrap();
    let (opened, signer) = Receipt::open(&signed).unwrap();
    assert_eq!((opened, signer.unwrap().key), (receipt.clone(), public(3)));
    let forged = Signed::sign(&receipt, &secret(5)).unwrap();
    assert!(
        Receipt::open(&forged).is_err(),
        "signed by another than its certificates say"
    );
    let elsewhere = Receipt {
        mesh: MeshId::from_root(&public(9)),
        ..receipt.clone()
    };
    assert!(Receipt::open(&Signed::sign(&elsewhere, &secret(3)).unwrap()).is_err());
    let late = Receipt {
        answered_at_ms: u64::MAX / 2,
        ..receipt
    };
    assert!(
        Receipt::open(&Signed::sign(&late, &secret(3)).unwrap()).is_err(),
        "its certificates were over"
    );
}

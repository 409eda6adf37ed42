//! Puts of etcd, by gRPC as its own clients do them: what their code generator would write for this one method.

use std::time::Instant;

use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use crate::{FOR, Outcome};

/// `etcdserverpb.PutRequest`, as far as it is needed.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `etcdserverpb.PutResponse`; what it says is of no use here.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// Puts a second of so many clients' requests under way at once, each of its own key, on one connection for each 64.
pub(crate) async fn put(endpoint: &str, in_flight: usize, bytes: usize) -> Outcome<f64> {
    let mut channels = Vec::new();
    for _ in 0..in_flight.div_ceil(64) {
        channels.push(Channel::from_shared(endpoint.to_owned())?.connect().await?);
    }
    let started = Instant::now();
    let putting = (0..in_flight).map(|number| {
        let channel = channels[number % channels.len()].clone();
        tokio::spawn(async move {
            let (mut grpc, mut done) = (Grpc::new(channel), 0_u64);
            while started.elapsed() < FOR {
                let request = PutRequest {
                    key: format!("bench/{number}/{done}").into_bytes(),
                    value: vec![7; bytes],
                };
                grpc.ready().await?;
                let codec: ProstCodec<PutRequest, PutResponse> = ProstCodec::default();
                let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
                grpc.unary(Request::new(request), path, codec).await?;
                done += 1;
            }
            Ok::<u64, Box<dyn std::error::Error + Send + Sync>>(done)
        })
    });
    let mut done = 0;
    for one in futures::future::join_all(putting).await {
        done += one??;
    }
    Ok(done as f64 / started.elapsed().as_secs_f64())
}

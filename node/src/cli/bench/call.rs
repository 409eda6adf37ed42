//! `weft bench call`.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::{Carrier, Figure, Folder, PATIENCE, missing, nodes, time};
use crate::{
    cli::{CliError, Session, parse},
    error::NodeError,
    node::Node,
    patterns::request_response::{CallOptions, RequestResponse, RequestResponseHandle, ServiceOptions},
};

/// Calls before anything counts: the connection and its lane are there then.
const WARM_UP: usize = 50;
/// The service that is called.
const SERVICE: &str = "bench";

/// Calls a second, and how long they take, between two nodes of this process
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft bench call
  weft bench call --size 64,64KiB --in-flight 1,64 --for 5s
  weft bench call --carrier quic --json | jq '{in_flight, calls_per_s, p99_us}'")]
pub(super) struct CallArgs {
    /// Bytes of a request and of its answer
    #[arg(long, value_name = "SIZE", default_value = "64", value_delimiter = ',', value_parser = parse::size_bytes)]
    size: Vec<u64>,
    /// Calls under way at once
    #[arg(long, value_name = "N", default_value = "1,64", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=4096))]
    in_flight: Vec<u16>,
    /// How long each figure is measured
    #[arg(long = "for", value_name = "DURATION", default_value = "3s", value_parser = parse::duration_positive)]
    duration: Duration,
    /// What carries them
    #[arg(long, value_enum, default_value_t = Carrier::Tcp)]
    carrier: Carrier,
}

pub(super) async fn calls(session: &Session, args: &CallArgs) -> Result<(), CliError> {
    let most = weft_protocol::limits::DIRECT_BODY_BYTES_MAX as u64;
    if let Some(size) = args.size.iter().find(|size| **size > most) {
        return Err(CliError::Usage(format!(
            "a call carries at most {most} bytes, not {size}"
        )));
    }
    let folder = Folder::new()?;
    let nodes = nodes(&folder, args.carrier, 2).await?;
    let handle = echo(&nodes[0], &nodes[1]).await?;
    let mut rows = Vec::new();
    for size in &args.size {
        for in_flight in &args.in_flight {
            let figure = measure(&handle, *size as usize, usize::from(*in_flight), args.duration).await?;
            if session.out.json {
                session.out.json_line(&json!({
                    "size_bytes": size, "in_flight": in_flight, "carrier": args.carrier.name(),
                    "calls_per_s": figure.per_second, "p50_us": figure.p50_us, "p99_us": figure.p99_us,
                }))?;
            }
            rows.push(vec![
                size.to_string(),
                in_flight.to_string(),
                args.carrier.name().to_owned(),
                format!("{:.0}", figure.per_second),
                time(figure.p50_us),
                time(figure.p99_us),
            ]);
        }
    }
    super::stop(&nodes).await;
    if session.out.json {
        return Ok(());
    }
    let headers = ["BYTES", "IN FLIGHT", "CARRIER", "CALLS/S", "P50", "P99"];
    session.out.table(&headers, &rows, "nothing was measured")
}

/// The first node offers an echo; the second one's handle, once it is answered.
async fn echo(alpha: &Node, beta: &Node) -> Result<RequestResponseHandle, NodeError> {
    let services = alpha.handle::<RequestResponse>().ok_or_else(missing)?;
    let mut echo = services.serve(ServiceOptions::new(SERVICE, "1.0.0")).await?;
    alpha.tasks().spawn("bench-echo", async move {
        while let Some(mut call) = echo.next().await {
            let body = std::mem::take(&mut call.body);
            call.answer(Vec::new(), body);
        }
    });
    let handle = beta.handle::<RequestResponse>().ok_or_else(missing)?;
    let end = Instant::now() + PATIENCE;
    let mut done = 0;
    while done < WARM_UP {
        match handle.call(SERVICE, "", vec![7; 64], CallOptions::default()).await {
            Ok(_) => done += 1,
            Err(error) if Instant::now() > end => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    Ok(handle)
}

/// Calls from so many tasks at once, for so long.
async fn measure(
    handle: &RequestResponseHandle,
    size: usize,
    in_flight: usize,
    duration: Duration,
) -> Result<Figure, NodeError> {
    let started = Instant::now();
    let until = started + duration;
    let callers: Vec<_> = (0..in_flight)
        .map(|_| {
            let handle = handle.clone();
            tokio::spawn(async move {
                let mut times_us: Vec<u32> = Vec::new();
                while Instant::now() < until {
                    let began = Instant::now();
                    handle.call(SERVICE, "", vec![7; size], CallOptions::default()).await?;
                    times_us.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
                }
                Ok::<_, NodeError>(times_us)
            })
        })
        .collect();
    let mut times_us = Vec::new();
    for caller in callers {
        let own = caller.await.map_err(|error| NodeError::internal(error.to_string()))?;
        times_us.extend(own?);
    }
    Ok(Figure::of(times_us, 1, started.elapsed()))
}

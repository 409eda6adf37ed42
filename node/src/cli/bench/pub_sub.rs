//! `weft bench pubsub`, `fanout` and `latency`.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Args;
use serde_json::json;
use weft_protocol::{Subject, limits::PUBLISH_BODY_BYTES_MAX};

use super::{Carrier, Folder, PATIENCE, missing, nodes, stop, time};
use crate::{
    cli::{CliError, Session, parse},
    error::NodeError,
    node::Node,
    patterns::pub_sub::{Delivery, PubSub, PubSubHandle, PublishOptions, Subscription},
};

/// Messages that are handed in together when speed is measured, and their bytes.
const TOGETHER_MAX: usize = 4096;
const TOGETHER_BYTES_MAX: usize = 4 << 20;
/// So often, before the first of them has gone out.
const AHEAD_MAX: usize = 4;
/// Subscribers that get what is published directly; more get it by gossip.
const DIRECT_MAX: usize = 16;
/// What a message begins with when its way is timed.
const STAMP_BYTES: usize = 8;

/// Messages a second from one node to another
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft bench pubsub
  weft bench pubsub --size 64,1KiB,64KiB --for 5s --json | jq '{size_bytes, deliveries_per_s}'")]
pub(super) struct PubSubArgs {
    #[command(flatten)]
    common: Common,
}

/// Messages a second from one node to many, all deliveries together
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft bench fanout --subscribers 1,4,16
  weft bench fanout --subscribers 32 --for 5s        more than 16 get it by gossip")]
pub(super) struct FanoutArgs {
    #[command(flatten)]
    common: Common,
    /// Nodes that subscribe
    #[arg(long, value_name = "N", default_value = "1,4,16", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=64))]
    subscribers: Vec<u16>,
}

/// How long messages take from one node to another, at a steady rate
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft bench latency
  weft bench latency --rate 100,1000,10000 --size 1KiB")]
pub(super) struct LatencyArgs {
    #[command(flatten)]
    common: Common,
    /// Messages a second
    #[arg(long, value_name = "N", default_value = "1000,10000", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Vec<u32>,
}

#[derive(Debug, Args)]
struct Common {
    /// Bytes of a message
    #[arg(long, value_name = "SIZE", default_value = "64", value_delimiter = ',', value_parser = parse::size_bytes)]
    size: Vec<u64>,
    /// How long each figure is measured
    #[arg(long = "for", value_name = "DURATION", default_value = "3s", value_parser = parse::duration_positive)]
    duration: Duration,
    /// What carries them
    #[arg(long, value_enum, default_value_t = Carrier::Tcp)]
    carrier: Carrier,
}

impl Common {
    fn check(&self, bytes_min: usize) -> Result<(), CliError> {
        let good = bytes_min as u64..=PUBLISH_BODY_BYTES_MAX as u64;
        match self.size.iter().find(|size| !good.contains(size)) {
            Some(size) => Err(CliError::Usage(format!(
                "a message here has {bytes_min} to {PUBLISH_BODY_BYTES_MAX} bytes, not {size}"
            ))),
            None => Ok(()),
        }
    }
}

pub(super) async fn pubsub(session: &Session, args: &PubSubArgs) -> Result<(), CliError> {
    floods(session, &args.common, &[1]).await
}

pub(super) async fn fanout(session: &Session, args: &FanoutArgs) -> Result<(), CliError> {
    floods(session, &args.common, &args.subscribers).await
}

async fn floods(session: &Session, common: &Common, subscribers: &[u16]) -> Result<(), CliError> {
    common.check(0)?;
    let mut rows = Vec::new();
    for count in subscribers {
        let folder = Folder::new()?;
        let mut mesh = Mesh::start(&folder, common.carrier, usize::from(*count)).await?;
        for size in &common.size {
            let flood = mesh.flood(*size as usize, common.duration).await?;
            if session.out.json {
                session.out.json_line(&json!({
                    "size_bytes": size, "subscribers": count, "carrier": common.carrier.name(), "direct": flood.is_direct,
                    "messages": flood.messages, "lost": flood.lost, "deliveries_per_s": flood.per_second,
                    "bytes_per_s": flood.per_second * *size as f64,
                }))?;
            }
            rows.push(vec![
                size.to_string(),
                count.to_string(),
                common.carrier.name().to_owned(),
                if flood.is_direct { "direct" } else { "gossip" }.to_owned(),
                format!("{:.0}", flood.per_second),
                format!("{:.1}", flood.per_second * *size as f64 / f64::from(1 << 20)),
                flood.lost.to_string(),
            ]);
        }
        mesh.stop().await;
    }
    if session.out.json {
        return Ok(());
    }
    let headers = [
        "BYTES",
        "SUBSCRIBERS",
        "CARRIER",
        "WAY",
        "DELIVERIES/S",
        "MIB/S",
        "LOST",
    ];
    session.out.table(&headers, &rows, "nothing was measured")
}

pub(super) async fn latency(session: &Session, args: &LatencyArgs) -> Result<(), CliError> {
    args.common.check(STAMP_BYTES)?;
    let folder = Folder::new()?;
    let mut mesh = Mesh::start(&folder, args.common.carrier, 1).await?;
    let mut rows = Vec::new();
    for size in &args.common.size {
        for rate in &args.rate {
            let times = mesh.pace(*size as usize, *rate, args.common.duration).await?;
            let at = |share: f64| {
                let index = (times.len().saturating_sub(1) as f64 * share) as usize;
                times.get(index).copied().unwrap_or(0)
            };
            let (p50_us, p99_us, most_us) = (at(0.5), at(0.99), at(1.0));
            if session.out.json {
                session.out.json_line(&json!({
                    "size_bytes": size, "rate_per_s": rate, "carrier": args.common.carrier.name(),
                    "messages": times.len(), "p50_us": p50_us, "p99_us": p99_us, "max_us": most_us,
                }))?;
            }
            rows.push(vec![
                size.to_string(),
                rate.to_string(),
                args.common.carrier.name().to_owned(),
                time(p50_us),
                time(p99_us),
                time(most_us),
            ]);
        }
    }
    mesh.stop().await;
    if session.out.json {
        return Ok(());
    }
    let headers = ["BYTES", "RATE/S", "CARRIER", "P50", "P99", "MAX"];
    session.out.table(&headers, &rows, "nothing was measured")
}

/// One node that publishes, and those that subscribe.
struct Mesh {
    nodes: Vec<Node>,
    publisher: PubSubHandle,
    subscriptions: Vec<Subscription>,
    subject: Subject,
}

struct Flood {
    messages: usize,
    lost: u64,
    per_second: f64,
    is_direct: bool,
}

impl Mesh {
    async fn start(folder: &Folder, carrier: Carrier, subscribers: usize) -> Result<Mesh, CliError> {
        let nodes = nodes(folder, carrier, subscribers + 1).await?;
        let subject: Subject = "bench.a".parse().map_err(NodeError::from)?;
        let handle = |node: &Node| node.handle::<PubSub>().ok_or_else(missing);
        let publisher = handle(&nodes[0])?;
        let pattern: weft_protocol::Pattern = "bench.>".parse().map_err(NodeError::from)?;
        let subscribe = |node: &Node| Ok::<_, NodeError>(handle(node)?.subscribe(pattern.clone(), None));
        let subscriptions = nodes[1..].iter().map(subscribe).collect::<Result<_, _>>()?;
        let mut mesh = Mesh {
            nodes,
            publisher,
            subscriptions,
            subject,
        };
        mesh.warm_up().await?;
        Ok(mesh)
    }

    async fn stop(self) {
        stop(&self.nodes).await;
    }

    /// Until everybody gets what is published, in the way it will go.
    async fn warm_up(&mut self) -> Result<(), CliError> {
        let end = Instant::now() + PATIENCE;
        let count = self.subscriptions.len();
        loop {
            let receipt = self.publish_one(Vec::new()).await?;
            let is_known = self.publisher.interested(&self.subject).len() == count;
            if is_known && (count > DIRECT_MAX || receipt == (true, count)) {
                break;
            }
            if Instant::now() > end {
                return Err(CliError::Timeout(
                    "the nodes of the bench do not find each other".to_owned(),
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // What is on its way from before ends with this one.
        self.publish_one(vec![1]).await?;
        for subscription in &mut self.subscriptions {
            while data(&next(subscription, PATIENCE).await?) != [1] {}
        }
        Ok(())
    }

    async fn publish_one(&self, data: Vec<u8>) -> Result<(bool, usize), NodeError> {
        let sent = self.publisher.publish(&self.subject, data, PublishOptions::default());
        let receipt = sent.await?;
        Ok((receipt.is_direct, receipt.peers))
    }

    /// Publishes as fast as it goes, for so long, and waits until everything has arrived.
    async fn flood(&mut self, size: usize, duration: Duration) -> Result<Flood, CliError> {
        let (is_direct, _) = self.publish_one(vec![2]).await?;
        for subscription in &mut self.subscriptions {
            while data(&next(subscription, PATIENCE).await?) != [2] {}
        }
        let together = (TOGETHER_BYTES_MAX / size.max(1)).clamp(1, TOGETHER_MAX);
        let started = Instant::now();
        let (publisher, subject) = (self.publisher.clone(), self.subject.clone());
        let total = Arc::new(AtomicUsize::new(usize::MAX));
        let expected = Arc::clone(&total);
        let publishing = tokio::spawn(async move {
            let data = vec![Bytes::from(vec![7; size]); together];
            let (mut messages, mut on_their_way) = (0, VecDeque::with_capacity(AHEAD_MAX));
            while started.elapsed() < duration {
                let queued = publisher.enqueue_all(&subject, data.clone(), PublishOptions::default());
                on_their_way.push_back(queued.await?);
                messages += together;
                if on_their_way.len() == AHEAD_MAX
                    && let Some(first) = on_their_way.pop_front()
                {
                    first.receipt().await?;
                }
            }
            for queued in on_their_way {
                queued.receipt().await?;
            }
            // Whatever becomes of the last one, everybody hears of it when the number is known.
            total.store(messages + 1, Ordering::Release);
            let last = publisher.publish(&subject, vec![3], PublishOptions::default());
            last.await.map(|_| messages)
        });
        let reading: Vec<_> = std::mem::take(&mut self.subscriptions)
            .into_iter()
            .map(|mut subscription| {
                let expected = Arc::clone(&expected);
                tokio::spawn(async move {
                    let (mut got, mut lost) = (0_u64, 0);
                    let all = async {
                        while got + lost < expected.load(Ordering::Acquire) as u64 {
                            let delivery = subscription.next().await.ok_or_else(missing)?;
                            match missed(&delivery) {
                                0 => got += 1,
                                missed => lost += missed,
                            }
                        }
                        Ok::<_, NodeError>(())
                    };
                    let all = tokio::time::timeout(duration + PATIENCE, all).await;
                    all.map_err(|_| silent(duration + PATIENCE))??;
                    Ok((subscription, got, lost))
                })
            })
            .collect();
        let broken = |error: tokio::task::JoinError| NodeError::internal(error.to_string());
        let messages = publishing.await.map_err(broken)?.map_err(NodeError::from)?;
        let (mut got, mut lost) = (0, 0);
        for reader in reading {
            let read: Result<(Subscription, u64, u64), CliError> = reader.await.map_err(broken)?;
            let (subscription, its, missed) = read?;
            self.subscriptions.push(subscription);
            (got, lost) = (got + its, lost + missed);
        }
        Ok(Flood {
            messages,
            lost,
            per_second: got as f64 / started.elapsed().as_secs_f64(),
            is_direct,
        })
    }

    /// The times from publishing to arriving, microseconds, sorted.
    async fn pace(&mut self, size: usize, rate: u32, duration: Duration) -> Result<Vec<u32>, CliError> {
        let count = (duration.as_secs_f64() * f64::from(rate)) as usize;
        let Some(mut subscription) = self.subscriptions.pop() else {
            return Err(NodeError::internal("nobody subscribes").into());
        };
        let begun = Instant::now();
        let reading = tokio::spawn(async move {
            let mut times_us = Vec::with_capacity(count);
            while times_us.len() < count {
                let delivery = next(&mut subscription, duration + PATIENCE).await?;
                if let missed @ 1.. = missed(&delivery) {
                    return Err(CliError::Timeout(format!("{missed} messages were lost at this rate")));
                }
                if let Some(stamp) = data(&delivery).first_chunk::<STAMP_BYTES>() {
                    let sent = Duration::from_nanos(u64::from_be_bytes(*stamp));
                    let took = begun.elapsed().saturating_sub(sent).as_micros();
                    times_us.push(u32::try_from(took).unwrap_or(u32::MAX));
                }
            }
            Ok((times_us, subscription))
        });
        for n in 0..count {
            let due = Duration::from_secs_f64(n as f64 / f64::from(rate));
            // A timer's tick is a millisecond: closer than that it is waited for awake.
            if let Some(early) = due.checked_sub(begun.elapsed() + Duration::from_millis(2)) {
                tokio::time::sleep(early).await;
            }
            while begun.elapsed() < due {
                tokio::task::yield_now().await;
            }
            let mut data = vec![0; size];
            let now_ns = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
            data[..STAMP_BYTES].copy_from_slice(&now_ns.to_be_bytes());
            let sent = self.publisher.enqueue(&self.subject, data, PublishOptions::default());
            sent.await.map_err(NodeError::from)?;
        }
        let read = reading.await.map_err(|error| NodeError::internal(error.to_string()))?;
        let (mut times_us, subscription) = read?;
        self.subscriptions.push(subscription);
        times_us.sort_unstable();
        Ok(times_us)
    }
}

async fn next(subscription: &mut Subscription, within: Duration) -> Result<Delivery, CliError> {
    let delivery = tokio::time::timeout(within, subscription.next()).await;
    delivery.map_err(|_| silent(within))?.ok_or_else(|| silent(within))
}

fn silent(within: Duration) -> CliError {
    CliError::Timeout(format!("messages did not come in {} s", within.as_secs()))
}

fn data(delivery: &Delivery) -> &[u8] {
    match delivery {
        Delivery::Message(received) => received.data(),
        _ => &[],
    }
}

/// How many a delivery says were lost.
fn missed(delivery: &Delivery) -> u64 {
    match delivery {
        Delivery::Message(_) => 0,
        Delivery::Dropped(count) => *count,
        Delivery::Gap { first, last, .. } => last - first + 1,
    }
}

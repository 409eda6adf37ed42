//! `weft bench streams`.

use std::{
    fs::File,
    future::Future,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::json;
use weft_protocol::{
    Subject,
    patterns::event_sourcing::{Append, Event, From, ReadRequest},
};

use super::{Carrier, Figure, Folder, missing, node_of, time};
use crate::{
    cli::{CliError, Session, parse, progress, view},
    error::NodeError,
    patterns::event_sourcing::{EventSourcing, EventSourcingHandle, Read, StreamOptions},
    platform::{Platform as _, RealPlatform, new_key},
    telemetry,
    trust::{FoundOptions, MeshKind},
};

/// Files that are written to see what the disk itself does.
const FILES_MAX: u64 = 2000;
/// Far apart, and prime to every number of streams that has no such factor: so each stream has its turn, in no order that helps.
const STEP: u64 = 7_919;

/// Many small streams: made, appended to, read, and there again after a restart
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft bench streams
  weft bench streams --streams 100000 --in-flight 64
  weft bench streams --dir /var/lib/weft            on the disk that counts

FILES/S is a new file on the same disk, written, synced, and its folder synced, from so many threads at once, measured just before.")]
pub(super) struct StreamsArgs {
    /// Streams
    #[arg(long, value_name = "N", default_value = "10000", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    streams: u64,
    /// Requests under way at once
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u16).range(1..=1024))]
    in_flight: u16,
    /// Bytes of an event's data
    #[arg(long, value_name = "SIZE", default_value = "128", value_parser = parse::size_bytes)]
    size: u64,
    /// A folder on the disk to measure [default: that of temporary files]
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    dir: Option<std::path::PathBuf>,
}

/// One thing that is done to every stream.
#[derive(Debug, Clone, Copy)]
enum Step {
    Create,
    First,
    Second,
    Read,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Create => "created",
            Step::First => "first event",
            Step::Second => "second event, here and there",
            Step::Read => "read, here and there",
        }
    }
}

pub(super) async fn streams(session: &Session, args: &StreamsArgs) -> Result<(), CliError> {
    let folder = Folder::in_dir(args.dir.as_deref())?;
    let in_flight = usize::from(args.in_flight);
    let files = files_alone(&folder, args)?;
    let key = new_key(&*RealPlatform.entropy());
    let node = node_of(&folder, "n0", Carrier::Tcp, Vec::new(), key.clone()).await?;
    let founds = FoundOptions {
        kind: MeshKind::Open,
        name: "n0".into(),
    };
    node.trust().found(&new_key(&*RealPlatform.entropy()), founds).await?;
    node.wait_ready().await;
    let handle = node.handle::<EventSourcing>().ok_or_else(missing)?;
    let (mut rows, mut figures) = (Vec::new(), serde_json::Map::new());
    for step in [Step::Create, Step::First, Step::Second, Step::Read] {
        let figure = all(session, &handle, args, step).await?;
        let key = step.name().split(' ').next().unwrap_or_default();
        let key = if matches!(step, Step::Second) { "appended" } else { key };
        figures.insert(
            key.to_owned(),
            json!({ "per_s": figure.per_second, "p50_us": figure.p50_us, "p99_us": figure.p99_us, "to_files": figure.per_second / files }),
        );
        rows.push(vec![
            step.name().to_owned(),
            format!("{:.0}", figure.per_second),
            time(figure.p50_us),
            time(figure.p99_us),
            format!("{files:.0}"),
            format!("{:.2}", figure.per_second / files),
        ]);
    }
    let resident = telemetry::process::sample()
        .map(|sample| sample.resident_bytes)
        .unwrap_or(0);
    drop(handle);
    node.stop().await;
    drop(node);
    let began = Instant::now();
    let node = node_of(&folder, "n0", Carrier::Tcp, Vec::new(), key).await?;
    node.wait_ready().await;
    let (reopened, count) = (began.elapsed(), node.handle::<EventSourcing>().ok_or_else(missing)?);
    let last = name_of(args.streams - 1)?;
    let version = count
        .info(&last)
        .await
        .map_err(NodeError::from)?
        .figures
        .map(|figures| figures.version);
    node.stop().await;
    if version != Some(2) {
        return Err(NodeError::internal(format!("after a restart {last} has the version {version:?}, not 2")).into());
    }
    if session.out.json {
        return session.out.json_line(&json!({
            "streams": args.streams, "in_flight": in_flight, "size_bytes": args.size, "files_per_s": files, "steps": figures,
            "resident_bytes": resident, "restart_s": reopened.as_secs_f64(),
        }));
    }
    let headers = ["STREAMS", "A SECOND", "P50", "P99", "FILES/S", "RATIO"];
    session.out.table(&headers, &rows, "nothing was measured")?;
    session.out.say(&format!(
        "{} streams: {} in memory, ready again {} after a restart",
        args.streams,
        view::bytes(resident),
        view::milliseconds(reopened.as_secs_f64() * 1e3)
    ));
    Ok(())
}

fn name_of(number: u64) -> Result<Subject, NodeError> {
    Ok(format!("bench.s{number:07}").parse()?)
}

/// Does something to every stream, so many at once.
async fn all(
    session: &Session,
    handle: &EventSourcingHandle,
    args: &StreamsArgs,
    step: Step,
) -> Result<Figure, NodeError> {
    let (next, began) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut progress = progress::Progress::of_things(&session.out, step.name(), Some(args.streams));
    let (count, size) = (args.streams, args.size as usize);
    let workers: Vec<_> = (0..args.in_flight)
        .map(|_| {
            let (handle, next) = (handle.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                let mut times_us = Vec::new();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return Ok::<_, NodeError>(times_us);
                    }
                    let number = match step {
                        Step::Create | Step::First => at,
                        Step::Second | Step::Read if count % STEP == 0 => at,
                        Step::Second | Step::Read => (at % count).wrapping_mul(STEP) % count,
                    };
                    let began = Instant::now();
                    one(&handle, &name_of(number)?, step, size).await?;
                    times_us.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
                }
            })
        })
        .collect();
    let done = async {
        let mut times_us = Vec::new();
        for worker in workers {
            let own = worker.await.map_err(|error| NodeError::internal(error.to_string()))?;
            times_us.extend(own?);
        }
        Ok::<_, NodeError>(times_us)
    };
    let times_us = shown(done, || progress.show(next.load(Ordering::Relaxed).min(count))).await?;
    Ok(Figure::of(times_us, 1, began.elapsed()))
}

/// Shows how far something is while it is done.
async fn shown<T>(done: impl Future<Output = T>, mut show: impl FnMut()) -> T {
    tokio::pin!(done);
    loop {
        match tokio::time::timeout(progress::EVERY, &mut done).await {
            Ok(done) => return done,
            Err(_) => show(),
        }
    }
}

async fn one(handle: &EventSourcingHandle, name: &Subject, step: Step, size: usize) -> Result<(), NodeError> {
    match step {
        Step::Create => {
            handle.create(name, StreamOptions::default()).await?;
        }
        Step::First | Step::Second => {
            let append = Append {
                events: vec![Event::new("bench", vec![7; size])],
                ..Append::default()
            };
            handle.append(name, append).await?;
        }
        Step::Read => {
            let request = ReadRequest::from(From::Position(1));
            let (mut reading, mut read) = (handle.read(name, request).await?, 0);
            while let Some(page) = reading.next().await? {
                if let Read::Records(records) = page {
                    read += records.len();
                }
            }
            if read != 2 {
                return Err(NodeError::internal(format!("{name} has {read} events, not 2")));
            }
        }
    }
    Ok(())
}

/// New files a second: each written and synced, and the folder as well.
fn files_alone(folder: &Folder, args: &StreamsArgs) -> Result<f64, CliError> {
    let path = folder.0.join("files");
    let fail = |error| CliError::io(format!("cannot write in {}", path.display()), error);
    std::fs::create_dir(&path).map_err(fail)?;
    let (next, began) = (AtomicU64::new(0), Instant::now());
    let count = args.streams.min(FILES_MAX);
    let write = || -> std::io::Result<()> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count || began.elapsed() > Duration::from_secs(10) {
                return Ok(());
            }
            let mut file = File::create_new(path.join(at.to_string()))?;
            file.write_all(&vec![7; args.size as usize])?;
            file.sync_data()?;
            File::open(&path)?.sync_all()?;
        }
    };
    let written = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.in_flight).map(|_| scope.spawn(write)).collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended
            .map(|ended| ended.unwrap_or(Ok(())))
            .collect::<std::io::Result<Vec<()>>>()
    });
    written.map_err(fail)?;
    let per_second = count.min(next.load(Ordering::Relaxed)) as f64 / began.elapsed().as_secs_f64();
    let _ = std::fs::remove_dir_all(&path);
    Ok(per_second)
}

//! `weft bench stream`.

use std::{
    fs::File,
    io::Write as _,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::json;
use weft_protocol::{
    Subject,
    patterns::event_sourcing::{Append, EVENT_DATA_BYTES_MAX, Event, From, ReadRequest},
};

use super::{Carrier, Figure, Folder, PATIENCE, missing, nodes, time};
use crate::{
    cli::{CliError, Session, parse},
    error::{ErrorKind, Kind as _, NodeError},
    patterns::event_sourcing::{EventSourcing, EventSourcingHandle, Read, StreamOptions},
};

const STREAM: &str = "bench";

/// Events a second that are on the disk when they are acknowledged, beside what the disk itself can
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft bench stream
  weft bench stream --size 1KiB --in-flight 64 --for 5s
  weft bench stream --remote                        appended at another node of the mesh
  weft bench stream --replicas 3                    on the disks of two of three nodes when acknowledged
  weft bench stream --dir /var/lib/weft             on the disk that counts

DISK/S is a plain file on the same disk with one fdatasync for so many records at once, measured just before. REPLAY/S is reading it all.")]
pub(super) struct StreamArgs {
    /// Bytes of an event's data
    #[arg(long, value_name = "SIZE", default_value = "128", value_parser = parse::size_bytes)]
    size: u64,
    /// Appends under way at once
    #[arg(long, value_name = "N", default_value = "1,64,512", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=8192))]
    in_flight: Vec<u16>,
    /// Events of one append
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: u16,
    /// How long each figure is measured
    #[arg(long = "for", value_name = "DURATION", default_value = "3s", value_parser = parse::duration_positive)]
    duration: Duration,
    /// Copies of the stream on so many nodes, all in this process and on this disk: 1, 3 or 5
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse::replicas)]
    replicas: u8,
    /// Append at another node, which does not keep the stream
    #[arg(long)]
    remote: bool,
    /// A folder on the disk to measure [default: that of temporary files]
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    dir: Option<std::path::PathBuf>,
}

pub(super) async fn stream(session: &Session, args: &StreamArgs) -> Result<(), CliError> {
    if args.size * u64::from(args.batch) > EVENT_DATA_BYTES_MAX as u64 {
        return Err(CliError::Usage(format!(
            "an append carries at most {EVENT_DATA_BYTES_MAX} bytes"
        )));
    }
    let folder = Folder::in_dir(args.dir.as_deref())?;
    let count = usize::from(args.replicas) + usize::from(args.remote);
    let nodes = nodes(&folder, Carrier::Tcp, count).await?;
    let keeper = nodes[0].handle::<EventSourcing>().ok_or_else(missing)?;
    let writer = if args.remote {
        &nodes[nodes.len() - 1]
    } else {
        &nodes[0]
    };
    let writer = writer.handle::<EventSourcing>().ok_or_else(missing)?;
    let mut rows = Vec::new();
    for in_flight in &args.in_flight {
        let name: Subject = format!("{STREAM}-{in_flight}").parse().map_err(NodeError::from)?;
        let options = StreamOptions {
            replicas: Some(args.replicas),
            ..StreamOptions::default()
        };
        create(&keeper, &name, options).await?;
        reachable(&writer, &name).await?;
        let at_once = usize::from(*in_flight) * usize::from(args.batch);
        let disk = disk_alone(&folder, args.size as usize, at_once, args.duration / 3)?;
        let figure = append(&writer, &name, args, usize::from(*in_flight)).await?;
        let replay = replay(&writer, &name).await?;
        if session.out.json {
            session.out.json_line(&json!({
                "size_bytes": args.size, "in_flight": in_flight, "batch": args.batch, "remote": args.remote, "replicas": args.replicas,
                "events_per_s": figure.per_second, "p50_us": figure.p50_us, "p99_us": figure.p99_us,
                "disk_per_s": disk, "to_disk": figure.per_second / disk, "replay_per_s": replay,
            }))?;
        }
        rows.push(vec![
            args.size.to_string(),
            in_flight.to_string(),
            args.batch.to_string(),
            format!("{:.0}", figure.per_second),
            time(figure.p50_us),
            time(figure.p99_us),
            format!("{disk:.0}"),
            format!("{:.2}", figure.per_second / disk),
            format!("{replay:.0}"),
        ]);
    }
    super::stop(&nodes).await;
    if session.out.json {
        return Ok(());
    }
    let headers = [
        "BYTES",
        "IN FLIGHT",
        "BATCH",
        "EVENTS/S",
        "P50",
        "P99",
        "DISK/S",
        "RATIO",
        "REPLAY/S",
    ];
    session.out.table(&headers, &rows, "nothing was measured")
}

/// Makes the stream; with copies, once all nodes have met.
async fn create(keeper: &EventSourcingHandle, name: &Subject, options: StreamOptions) -> Result<(), NodeError> {
    let end = Instant::now() + PATIENCE;
    loop {
        match keeper.create(name, options.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() != ErrorKind::Unreachable || Instant::now() > end => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Waits until the writer's node knows the stream.
async fn reachable(writer: &EventSourcingHandle, name: &Subject) -> Result<(), NodeError> {
    let end = Instant::now() + PATIENCE;
    loop {
        match writer.info(name).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Records a second of a plain file with one sync for so many.
fn disk_alone(folder: &Folder, size: usize, at_once: usize, duration: Duration) -> Result<f64, CliError> {
    let path = folder.0.join("disk");
    let fail = |error| CliError::io(format!("cannot write {}", path.display()), error);
    let mut file = File::create(&path).map_err(fail)?;
    let records = vec![7; size * at_once];
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < duration {
        file.write_all(&records).map_err(fail)?;
        file.sync_data().map_err(fail)?;
        count += at_once;
    }
    let per_second = count as f64 / began.elapsed().as_secs_f64();
    let _ = std::fs::remove_file(&path);
    Ok(per_second)
}

/// Appends from so many tasks at once, for so long.
async fn append(
    handle: &EventSourcingHandle,
    name: &Subject,
    args: &StreamArgs,
    in_flight: usize,
) -> Result<Figure, NodeError> {
    let (size, batch) = (args.size as usize, usize::from(args.batch));
    let started = Instant::now();
    let until = started + args.duration;
    let writers: Vec<_> = (0..in_flight)
        .map(|_| {
            let (handle, name) = (handle.clone(), name.clone());
            tokio::spawn(async move {
                let mut times_us: Vec<u32> = Vec::new();
                while Instant::now() < until {
                    let began = Instant::now();
                    let append = Append {
                        events: vec![Event::new("bench", vec![7; size]); batch],
                        ..Append::default()
                    };
                    handle.append(&name, append).await?;
                    times_us.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
                }
                Ok::<_, NodeError>(times_us)
            })
        })
        .collect();
    let mut times_us = Vec::new();
    for writer in writers {
        let own = writer.await.map_err(|error| NodeError::internal(error.to_string()))?;
        times_us.extend(own?);
    }
    Ok(Figure::of(times_us, batch, started.elapsed()))
}

/// Events a second of reading everything.
async fn replay(handle: &EventSourcingHandle, name: &Subject) -> Result<f64, NodeError> {
    let request = ReadRequest::from(From::Position(1));
    let (began, mut count) = (Instant::now(), 0);
    let mut reading = handle.read(name, request).await?;
    while let Some(read) = reading.next().await? {
        if let Read::Records(records) = read {
            count += records.len();
        }
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

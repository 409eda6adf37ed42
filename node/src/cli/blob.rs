//! `weft blob`: data too large for a message, which nodes keep and fetch from each other.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use http::{HeaderValue, Method};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use weft_protocol::patterns::blobs::{BlobId, Reference};

use super::{
    CliError, Session,
    client::{Call, Client},
    input,
    output::escape,
    parse,
    progress::Progress,
    view,
};

/// See and fetch data that are too large for a message
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft pub cameras.7 --file film.mp4                    what is too large for a message is published as a blob
  weft sub 'cameras.*' --save films                     fetches what is published, each into a file
  weft blob get \"$DATAREF\" -o film.mp4                  fetches one, as the `dataref` of its message says
  weft blob ls

A blob is fetched from its publisher, or from any member that has fetched it before, and checked by its hash; b3sum prints the same one.")]
pub(crate) struct BlobArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List what is on this node
    Ls,
    /// Read a blob; one that is not here is fetched
    Get(GetArgs),
    /// Let go of a blob on this node
    Rm(RemoveArgs),
}

#[derive(Debug, Args)]
struct GetArgs {
    /// The `dataref` of a message, or the hash of a blob that is here
    #[arg(value_name = "DATAREF")]
    reference: String,
    /// Where to write it; it has this name once it is whole. Without it, standard output
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// Its hash
    #[arg(value_name = "HASH")]
    hash: String,
}

/// Does one of them.
pub(crate) async fn execute(session: &Session, args: BlobArgs) -> Result<(), CliError> {
    match args.action {
        Action::Ls => list(session).await,
        Action::Get(args) => get(session, &args).await,
        Action::Rm(args) => {
            let path = format!("/v1/blobs/{}", parse::percent(&args.hash));
            session.client()?.delete(&path).await?;
            session.out.say(&format!("removed {}", escape(&args.hash)));
            Ok(())
        }
    }
}

async fn list(session: &Session) -> Result<(), CliError> {
    let stored = session.client()?.get("/v1/blobs").await?;
    let out = &session.out;
    if out.json {
        return view::elements(&stored).iter().try_for_each(|one| out.json_line(one));
    }
    let row = |one: &Value| {
        let whole = if view::flag(one, "whole") { "" } else { "in part" };
        vec![
            view::text(one, "hash"),
            view::bytes(one.get("bytes").and_then(Value::as_u64).unwrap_or_default()),
            whole.to_owned(),
            escape(&view::text(one, "subjects")).into_owned(),
            view::text(one, "used"),
        ]
    };
    let rows: Vec<_> = view::elements(&stored).iter().map(row).collect();
    out.table(
        &["HASH", "SIZE", "HERE", "SUBJECTS", "LAST USED"],
        &rows,
        "no blobs are on this node; `weft pub SUBJECT --file FILE` makes one of a large file",
    )
}

async fn get(session: &Session, args: &GetArgs) -> Result<(), CliError> {
    let path = path_of(&args.reference)?;
    let client = session.client()?;
    match &args.output {
        None => copy(session, &client, &path, &mut tokio::io::stdout()).await.map(drop),
        Some(file) => {
            let bytes = save(session, &client, &path, file).await?;
            if session.out.json {
                let saved = serde_json::json!({ "file": file.display().to_string(), "bytes": bytes });
                return session.out.json_line(&saved);
            }
            let words = format!("{} ({})", file.display(), view::bytes(bytes));
            session.out.say(&escape(&words));
            Ok(())
        }
    }
}

/// Where the node has it: a reference that it can follow, or a bare hash.
fn path_of(reference: &str) -> Result<String, CliError> {
    if let Ok(reference) = reference.parse::<Reference>() {
        return Ok(reference.to_string());
    }
    match reference.parse::<BlobId>() {
        Ok(id) => Ok(format!("/v1/blobs/{id}")),
        Err(error) => Err(CliError::Usage(format!(
            "{reference:?} is neither the dataref of a message (/v1/blobs/HASH?…) nor a hash: {error}"
        ))),
    }
}

/// Fetches a blob into a file, which has its name once it is whole; how many bytes.
pub(crate) async fn save(
    session: &Session,
    client: &Client,
    path: &str,
    file: &std::path::Path,
) -> Result<u64, CliError> {
    let fail = |error| CliError::io(format!("cannot write {}", file.display()), error);
    if tokio::fs::metadata(file).await.is_ok_and(|known| !known.is_file()) {
        // A device or a pipe: nothing can take its place.
        let mut to = tokio::fs::OpenOptions::new()
            .write(true)
            .open(file)
            .await
            .map_err(fail)?;
        return copy(session, client, path, &mut to).await;
    }
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut to = tokio::fs::File::create(&part).await.map_err(fail)?;
    let copied = copy(session, client, path, &mut to).await;
    let copied = match copied {
        Ok(bytes) => to.sync_all().await.map(|()| bytes).map_err(fail),
        Err(error) => Err(error),
    };
    if copied.is_err() {
        // What is there is on the node as well, from where the next try goes on.
        let _ = tokio::fs::remove_file(&part).await;
        return copied;
    }
    tokio::fs::rename(&part, file).await.map_err(fail)?;
    copied
}

/// Copies a blob as it comes; how many bytes.
pub(crate) async fn copy(
    session: &Session,
    client: &Client,
    path: &str,
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<u64, CliError> {
    let call = Call::new(Method::GET, path);
    let response = client.stream(&call, input::whole(bytes::Bytes::new())).await?;
    let length = response.headers().get(http::header::CONTENT_LENGTH);
    let total = length.and_then(|length: &HeaderValue| length.to_str().ok()?.parse::<u64>().ok());
    let mut progress = Progress::new(&session.out, "fetched", total);
    let mut body = response.into_body();
    let mut copied = 0;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| CliError::Lost(format!("the blob broke off after {copied} bytes: {error}")))?;
        if let Some(bytes) = frame.data_ref() {
            to.write_all(bytes).await.map_err(CliError::Output)?;
            copied += bytes.len() as u64;
            progress.show(copied);
        }
    }
    to.flush().await.map_err(CliError::Output)?;
    if total.is_some_and(|total| total != copied) {
        return Err(CliError::Lost(format!("the blob broke off after {copied} bytes")));
    }
    Ok(copied)
}

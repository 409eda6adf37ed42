//! `weft verify-proof`: proofs of events, verified without a node and without a mesh.

use std::path::PathBuf;

use clap::Args;
use data_encoding::{BASE64, HEXLOWER};
use serde_json::json;
use weft_protocol::{
    MeshId, PeerId, Subject,
    patterns::event_sourcing::{
        checkpoint::{Checkpoint, Origin},
        fork::Fork,
        proof::{PROOF_BYTES_MAX, Proof},
    },
};

use super::{CliError, Session, input, output::escape};
use crate::{
    error::NodeError,
    local::rfc3339,
    patterns::event_sourcing::{Recorded, event_json},
};

/// Verify a proof: that an event is in a stream, at its place, as the stream's owner signed it; or evidence that the owner signed two histories
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft stream prove orders 17 -o order.proof
  weft verify-proof order.proof --mesh mesh-…
  weft verify-proof orders.fork                          what `weft stream evidence` wrote

It needs no node and no mesh. Without --mesh and --owner the proof says itself whose stream it is: compare that with what you know. It
cannot say what was revoked since. Exit code 4 when it does not hold.")]
pub(crate) struct VerifyProofArgs {
    /// What `weft stream prove` or `weft stream evidence` wrote; `-` is standard input
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    /// The mesh it must be of
    #[arg(long, value_name = "ID")]
    mesh: Option<MeshId>,
    /// Who must keep the stream
    #[arg(long, value_name = "PEER")]
    owner: Option<PeerId>,
    /// The stream it must be of
    #[arg(long, value_name = "STREAM")]
    stream: Option<Subject>,
    /// Write the event's data into this file
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
}

fn wrong(why: String) -> CliError {
    CliError::Node(NodeError::denied(format!("the proof does not hold: {why}")))
}

/// Whether it is about what it must be about.
fn check_origin(args: &VerifyProofArgs, origin: &Origin) -> Result<(), CliError> {
    if let Some(mesh) = args.mesh.filter(|mesh| *mesh != origin.mesh) {
        return Err(wrong(format!("it is of {}, not of {mesh}", origin.mesh)));
    }
    let owner = origin.owner.peer_id();
    if let Some(other) = args.owner.filter(|other| *other != owner) {
        return Err(wrong(format!("the stream is kept by {owner}, not by {other}")));
    }
    if let Some(other) = args.stream.as_ref().filter(|other| **other != origin.stream) {
        return Err(wrong(format!("it is of the stream {}, not of {other}", origin.stream)));
    }
    Ok(())
}

/// Evidence of two histories.
fn forked(session: &Session, args: &VerifyProofArgs, text: &str) -> Result<(), CliError> {
    let fork = Fork::from_text(text).map_err(|error| wrong(error.to_string()))?;
    let forked = fork.verify().map_err(|error| wrong(error.to_string()))?;
    let origin = &forked.earlier.origin;
    check_origin(args, origin)?;
    let (earlier, later) = (&forked.earlier, &forked.later);
    if session.out.json {
        let note = |note: &Checkpoint| json!({ "size": note.size, "root": BASE64.encode(&note.root), "signed": rfc3339(note.time_ms) });
        return session.out.json_line(&json!({
            "forked": true, "mesh_id": origin.mesh.to_string(), "stream": origin.stream.to_string(),
            "owner": origin.owner.peer_id().to_string(), "earlier": note(earlier), "later": note(later),
            "root_of_later": BASE64.encode(&fork.root),
        }));
    }
    let line = |note: &Checkpoint| {
        format!(
            "{} records, signed at {}, root {}",
            note.size,
            rfc3339(note.time_ms),
            HEXLOWER.encode(&note.root)
        )
    };
    session.out.line(&format!(
        "{} has signed two histories of the stream {} in {}:\n  {}\n  {}\nThe first {} records of the second history have the root {}: it does not go on from the first.",
        origin.owner.peer_id(),
        origin.stream,
        origin.mesh,
        line(earlier),
        line(later),
        earlier.size,
        HEXLOWER.encode(&fork.root),
    ))
}

/// Verifies.
pub(crate) async fn execute(session: &Session, args: &VerifyProofArgs) -> Result<(), CliError> {
    let fail = |error| CliError::io(format!("cannot read {}", args.file.display()), error);
    let bytes = match args.file.as_os_str() == "-" {
        true => input::bounded(tokio::io::stdin(), PROOF_BYTES_MAX as u64)
            .await
            .map_err(fail)?,
        false => {
            let file = tokio::fs::File::open(&args.file).await.map_err(fail)?;
            input::bounded(file, PROOF_BYTES_MAX as u64).await.map_err(fail)?
        }
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong("it is no text".to_owned()))?;
    if Fork::is_text(text) {
        return forked(session, args, text);
    }
    let proof = Proof::from_text(text).map_err(|error| wrong(error.to_string()))?;
    let proved = proof.verify().map_err(|error| wrong(error.to_string()))?;
    let origin = &proved.checkpoint.origin;
    check_origin(args, origin)?;
    let owner = origin.owner.peer_id();
    if let Some(file) = &args.output {
        let written = tokio::fs::write(file, &proved.record.event.data).await;
        written.map_err(|error| CliError::io(format!("cannot write {}", file.display()), error))?;
    }
    let recorded = Recorded {
        position: proved.position,
        record: proved.record.clone(),
    };
    let event = event_json(&origin.stream, &recorded);
    let cosigners = proved.checkpoint.cosigners(&proof.checkpoint);
    if session.out.json {
        return session.out.json_line(&json!({
            "mesh_id": origin.mesh.to_string(), "stream": origin.stream.to_string(), "owner": owner.to_string(),
            "owner_name": proved.owner.as_ref().map(|member| &member.name), "owner_was_member": proved.owner.is_some(),
            "position": proved.position, "size": proved.checkpoint.size, "root": BASE64.encode(&proved.checkpoint.root),
            "signed": rfc3339(proved.checkpoint.time_ms), "event": event,
            "cosigned": cosigners.iter().map(|one| {
                json!({ "peer": one.by.peer_id().to_string(), "at": rfc3339(one.at_s.saturating_mul(1000)) })
            }).collect::<Vec<_>>(),
        }));
    }
    let who = match &proved.owner {
        Some(member) => format!("{} ({owner}), then a member of {}", escape(&member.name), origin.mesh),
        None => format!("{owner} in the open mesh {}", origin.mesh),
    };
    session.out.line(&format!(
        "record {} of {} in the stream {}, kept by {who}\nsigned at {}, root {}",
        proved.position,
        proved.checkpoint.size,
        origin.stream,
        rfc3339(proved.checkpoint.time_ms),
        HEXLOWER.encode(&proved.checkpoint.root),
    ))?;
    for one in &cosigners {
        session
            .out
            .line(&format!("{} has the same history", one.by.peer_id()))?;
    }
    super::stream::print_event(session, &event)
}

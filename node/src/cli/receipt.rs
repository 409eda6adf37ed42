//! `weft receipt`: receipts of calls, verified without a node and without a mesh.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use data_encoding::{BASE64, HEXLOWER};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use weft_protocol::{MeshId, PublicKey, Signed, Wire as _, patterns::request_response::Receipt};

use super::{CliError, Session, input, output::escape};
use crate::error::NodeError;

/// The text of a receipt: base64 of what it has at most.
const TEXT_BYTES_MAX: u64 = 64 * 1024;
/// What a call carries.
const BODY_BYTES_MAX: u64 = 16 << 20;

/// Look at receipts of calls
#[derive(Debug, Args)]
pub(crate) struct ReceiptArgs {
    #[command(subcommand)]
    command: ReceiptCommand,
}

#[derive(Debug, Subcommand)]
enum ReceiptCommand {
    Verify(VerifyArgs),
}

/// Verify a receipt: its signature, its signer's membership, and that it is about these bytes
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft call pay --file order.json --receipt paid.receipt > answer
  weft receipt verify paid.receipt --request order.json --answer answer --mesh mesh-…

Without --mesh the receipt says itself of which mesh its signer was a member: compare that with what you know. It cannot say what was
revoked since. Exit code 4 when it does not hold.")]
struct VerifyArgs {
    /// The receipt, as `weft call --receipt` wrote it
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    /// The request it must be about
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    request: Option<PathBuf>,
    /// The answer it must be about
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    answer: Option<PathBuf>,
    /// The mesh it must be of
    #[arg(long, value_name = "ID")]
    mesh: Option<MeshId>,
}

/// Dispatches `weft receipt …`.
pub(crate) async fn execute(session: &Session, args: ReceiptArgs) -> Result<(), CliError> {
    match args.command {
        ReceiptCommand::Verify(args) => verify(session, &args).await,
    }
}

async fn read(path: &std::path::Path, bytes_max: u64) -> Result<bytes::Bytes, CliError> {
    let fail = |error| CliError::io(format!("cannot read {}", path.display()), error);
    let file = tokio::fs::File::open(path).await.map_err(fail)?;
    input::bounded(file, bytes_max).await.map_err(fail)
}

async fn verify(session: &Session, args: &VerifyArgs) -> Result<(), CliError> {
    let text = read(&args.file, TEXT_BYTES_MAX).await?;
    let wrong = |why: String| CliError::Node(NodeError::denied(format!("the receipt does not hold: {why}")));
    let bytes = BASE64
        .decode(text.trim_ascii())
        .map_err(|_| CliError::Usage(format!("{} holds no receipt", args.file.display())))?;
    let signed = Signed::<Receipt>::from_bytes(&bytes).map_err(|error| wrong(error.to_string()))?;
    let (receipt, member) = Receipt::open(&signed).map_err(|error| wrong(error.to_string()))?;
    if let Some(mesh) = args.mesh.filter(|mesh| *mesh != receipt.mesh) {
        return Err(wrong(format!("it is of {}, not of {mesh}", receipt.mesh)));
    }
    for (path, hash, what) in [
        (&args.request, receipt.request_sha256, "request"),
        (&args.answer, receipt.answer_sha256, "answer"),
    ] {
        if let Some(path) = path {
            let found: [u8; 32] = Sha256::digest(read(path, BODY_BYTES_MAX).await?).into();
            if found != hash {
                return Err(wrong(format!("it is about another {what} than {}", path.display())));
            }
        }
    }
    let told = json!({
        "mesh_id": receipt.mesh.to_string(),
        "signer": signed.signer().peer_id().to_string(), "signer_name": member.as_ref().map(|member| &member.name),
        "signer_was_member": member.is_some(),
        "caller": receipt.caller.peer_id().to_string(),
        "service": receipt.service, "endpoint": receipt.endpoint, "version": receipt.version, "instance": receipt.instance,
        "failed": receipt.failed,
        "request_sha256": HEXLOWER.encode(&receipt.request_sha256), "answer_sha256": HEXLOWER.encode(&receipt.answer_sha256),
        "received_at_ms": receipt.received_at_ms, "answered_at_ms": receipt.answered_at_ms,
    });
    if session.out.json {
        return session.out.json_line(&told);
    }
    let who = |key: &PublicKey| key.peer_id().to_string();
    let signer = match &member {
        Some(member) => format!(
            "{} ({}), then a member of {}",
            escape(&member.name),
            who(&signed.signer()),
            receipt.mesh
        ),
        None => format!("{} in the open mesh {}", who(&signed.signer()), receipt.mesh),
    };
    let outcome = receipt
        .failed
        .map_or("answered".to_owned(), |code| format!("failed with code {code}"));
    session.out.line(&format!(
        "{}/{} {} {outcome} a call of {}\nat {}\nsigned by {signer}",
        receipt.service,
        receipt.endpoint,
        receipt.version,
        who(&receipt.caller),
        crate::local::rfc3339(receipt.answered_at_ms),
    ))
}

//! `weft id`: the key that is this node.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use weft_protocol::ident::SecretKey;

use super::{CliError, Session, input, output::escape, passphrase, view};
use crate::{
    data_dir::DataDir,
    error::ErrorKind,
    trust::keyfile::{self, KeyFileError, NODE_KEY_FILE},
};

/// Show, save and restore the node's identity
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft id show
  weft id export --passphrase >node.key.backup     keep it where the disk of this machine cannot take it along
  weft id import node.key.backup                   on a new machine, before the first start
  weft id passphrase                               protect the key on this disk

A passphrase is asked for, or taken from the file that WEFT_PASSPHRASE_FILE names, or from the systemd credential
weft-passphrase; never from the command line. A new one is asked for, or taken from the file that
WEFT_NEW_PASSPHRASE_FILE names; where there was none, WEFT_PASSPHRASE_FILE will do.")]
pub(crate) struct IdArgs {
    #[command(subcommand)]
    command: IdCommand,
}

#[derive(Debug, Subcommand)]
enum IdCommand {
    /// Print the node's peer id
    Show,
    /// Print the secret key for a backup; whoever has it is this node
    Export {
        /// Protect it by a passphrase
        #[arg(long)]
        passphrase: bool,
    },
    /// Take over a key that `weft id export` wrote; never replaces one
    Import {
        /// The file; `-` is standard input
        #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Set or change the passphrase that protects the key on disk
    Passphrase {
        /// Keep the key without a passphrase from now on
        #[arg(long)]
        remove: bool,
    },
}

/// Shows, exports, imports, or changes the passphrase.
pub(crate) async fn execute(session: &Session, args: IdArgs) -> Result<(), CliError> {
    match args.command {
        IdCommand::Show => show(session).await,
        IdCommand::Export { passphrase } => export(session, passphrase),
        IdCommand::Import { file } => import(session, &file).await,
        IdCommand::Passphrase { remove } => change(session, remove),
    }
}

async fn show(session: &Session) -> Result<(), CliError> {
    let path = session.data_dir()?.join(NODE_KEY_FILE);
    let encrypted = keyfile::is_encrypted(&path).map_err(no_identity)?;
    // The running node knows who it is; a passphrase is needed only without one.
    let told = match (encrypted, session.client()) {
        (true, Ok(client)) => client
            .get("/v1/status")
            .await
            .map(|status| view::text(&status, "peer_id"))
            .ok(),
        _ => None,
    };
    let peer_id = match told.filter(|id| !id.is_empty()) {
        Some(id) => id,
        None => load(&path)?.public().peer_id().to_string(),
    };
    if session.out.json {
        let path = path.to_string_lossy();
        return session
            .out
            .json_line(&json!({ "peer_id": peer_id, "key_file": path, "passphrase": encrypted }));
    }
    session.out.line(&escape(&peer_id))
}

fn export(session: &Session, protect: bool) -> Result<(), CliError> {
    let key = load(&session.data_dir()?.join(NODE_KEY_FILE))?;
    let passphrase = protect.then(passphrase::chosen).transpose()?;
    let text = keyfile::export(&key, passphrase.as_ref())?;
    if passphrase.is_none() && session.out.talk_terminal {
        session
            .out
            .say("This is the secret key itself: whoever reads it is this node.");
    }
    session.out.bytes(text.as_bytes())
}

async fn import(session: &Session, file: &Path) -> Result<(), CliError> {
    // Holding the folder's lock: no node may be starting with another identity meanwhile.
    let dir = DataDir::open(session.data_dir()?)?;
    let bytes = zeroize::Zeroizing::new(input::body(None, Some(file)).await?.to_vec());
    let what = if file == Path::new("-") {
        "standard input".into()
    } else {
        file.to_string_lossy()
    };
    let (key, passphrase) = match keyfile::import(&bytes, None, &what) {
        Err(KeyFileError::PassphraseNeeded { .. }) => {
            let passphrase = passphrase::known(&what)?;
            (keyfile::import(&bytes, Some(&passphrase), &what)?, Some(passphrase))
        }
        outcome => (outcome?, None),
    };
    keyfile::create(&dir.file(NODE_KEY_FILE), &key, passphrase.as_ref())?;
    let peer_id = key.public().peer_id().to_string();
    if session.out.json {
        return session.out.json_line(&json!({ "peer_id": peer_id }));
    }
    session.out.say(&format!("this data dir is now {peer_id}"));
    if passphrase.is_some() {
        session.out.say("the key on disk is protected by the same passphrase");
    }
    Ok(())
}

fn change(session: &Session, remove: bool) -> Result<(), CliError> {
    let path = session.data_dir()?.join(NODE_KEY_FILE);
    let old = keyfile::is_encrypted(&path)
        .map_err(no_identity)?
        .then(|| passphrase::known(&path.to_string_lossy()))
        .transpose()?;
    if old.is_some() {
        // Who mistypes the old one need not choose a new one.
        keyfile::load(&path, old.as_ref())?;
    }
    // Where the surroundings give a passphrase, it is the one that opens the key: the old one, if there is one.
    let choose = if old.is_some() {
        passphrase::chosen
    } else {
        passphrase::first
    };
    let new = (!remove).then(choose).transpose()?;
    keyfile::change_passphrase(&path, old.as_ref(), new.as_ref())?;
    session.out.say(match new {
        Some(_) => "the key is protected; the node asks for the passphrase when it starts",
        None => "the key is no longer protected by a passphrase",
    });
    Ok(())
}

/// The node's key, with a passphrase only if it needs one.
fn load(path: &Path) -> Result<SecretKey, CliError> {
    let passphrase = keyfile::is_encrypted(path)
        .map_err(no_identity)?
        .then(|| passphrase::known(&path.to_string_lossy()))
        .transpose()?;
    Ok(keyfile::load(path, passphrase.as_ref())?)
}

/// Words for a data dir without a key.
fn no_identity(error: KeyFileError) -> CliError {
    use crate::error::{Kind, NodeError};

    match error.kind() {
        ErrorKind::NotFound => NodeError::not_found(format!("there is no identity yet: {error}"))
            .with_hint("`weft init` or `weft run` makes one")
            .into(),
        _ => error.into(),
    }
}

//! `weft config`: what is in effect, what could be set, and whether a file is good.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::{
    CliError, Session,
    client::Call,
    output::{Tone, escape},
    view,
};
use crate::config::{Config, ConfigErrors, Sources};

/// The file in the data dir.
const CONFIG_FILE: &str = "config.toml";

/// Show and check the configuration
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    Show(ShowArgs),
    Validate(ValidateArgs),
    /// Let the running node read its configuration again
    Reload,
}

/// Show the values in effect: those of the running node, or those a start would have
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft config show
  weft config show --defaults >config.toml     every key with its default and meaning")]
struct ShowArgs {
    /// Every key with its default and meaning
    #[arg(long)]
    defaults: bool,
}

/// Check a configuration file together with the environment; all that is wrong is said at once
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft config validate                  DATA_DIR/config.toml
  weft config validate /etc/weft/config.toml

Exit code 0 when it is good, 2 when it is not.")]
struct ValidateArgs {
    /// The file; without it, config.toml in the data dir
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
}

/// Shows, checks or reloads.
pub(crate) async fn execute(session: &Session, args: ConfigArgs) -> Result<(), CliError> {
    match args.command {
        ConfigCommand::Show(args) => show(session, &args).await,
        ConfigCommand::Validate(args) => validate(session, args),
        ConfigCommand::Reload => reload(session).await,
    }
}

async fn show(session: &Session, args: &ShowArgs) -> Result<(), CliError> {
    let text = if args.defaults {
        Config::defaults_annotated()
    } else {
        match in_effect(session).await {
            Err(CliError::NoNode { .. }) => {
                session.detail("no node is running; this is what a start would have");
                Config::load(&sources(session.data_dir()?.join(CONFIG_FILE)))?.to_toml()
            }
            answer => answer?,
        }
    };
    if session.out.json {
        return session.out.json_line(&as_json(&text)?);
    }
    session.out.bytes(text.as_bytes())
}

/// The values by section and key, and where those come from that are no defaults.
fn as_json(text: &str) -> Result<Value, CliError> {
    let not_toml = |error: toml::de::Error| CliError::Protocol(format!("the configuration is not TOML: {error}"));
    let mut values: Value = toml::from_str(text).map_err(not_toml)?;
    let (mut section, mut origin) = (String::new(), None);
    let mut origins = Map::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some(from) = line.strip_prefix("# from ") {
            origin = Some(from.to_owned());
        } else if let (Some((key, _)), Some(from)) = (line.split_once(" = "), origin.take()) {
            origins.insert(format!("{section}.{key}"), json!(from));
        }
    }
    if let Some(values) = values.as_object_mut() {
        values.insert("origins".to_owned(), Value::Object(origins));
    }
    Ok(values)
}

async fn in_effect(session: &Session) -> Result<String, CliError> {
    let answer = session.client()?.send(Call::new(Method::GET, "/v1/config")).await?;
    String::from_utf8(answer.body.into()).map_err(|_| CliError::Protocol("the configuration is not text".to_owned()))
}

fn sources(file_if_present: PathBuf) -> Sources {
    Sources::new()
        .file_if_present(file_if_present)
        .environment(std::env::vars_os())
}

fn validate(session: &Session, args: ValidateArgs) -> Result<(), CliError> {
    let (sources, named) = match args.file {
        Some(file) => (Sources::new().file(&file).environment(std::env::vars_os()), file),
        None => {
            let file = session.data_dir()?.join(CONFIG_FILE);
            (sources(file.clone()), file)
        }
    };
    match Config::load(&sources) {
        Ok(_) if session.out.json => session.out.json_line(&json!({ "valid": true, "errors": [] })),
        Ok(_) if !named.exists() => {
            session.out.say(&format!(
                "there is no {}: the defaults hold",
                escape(&named.to_string_lossy())
            ));
            Ok(())
        }
        Ok(_) => {
            let good = session.out.paint_talk(Tone::Good, "good");
            session
                .out
                .say(&format!("{} is {good}", escape(&named.to_string_lossy())));
            Ok(())
        }
        Err(ConfigErrors(errors)) if session.out.json => {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            session.out.json_line(&json!({ "valid": false, "errors": errors }))?;
            Err(CliError::Exit(2))
        }
        Err(errors) => Err(errors.into()),
    }
}

async fn reload(session: &Session) -> Result<(), CliError> {
    let changes = session.client()?.post("/v1/config/reload", &json!({})).await?;
    if session.out.json {
        return session.out.json_line(&changes);
    }
    for (key, words) in [
        ("reloaded", "in effect now"),
        ("needs_restart", "in effect after a restart"),
    ] {
        let keys = view::text(&changes, key);
        if !keys.is_empty() {
            session.out.say(&format!("{words}: {}", escape(&keys)));
        }
    }
    if view::text(&changes, "reloaded").is_empty() && view::text(&changes, "needs_restart").is_empty() {
        session.out.say("nothing changed");
    }
    Ok(())
}

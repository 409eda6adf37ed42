//! `weft-sim export`: a scenario for an engine that spans machines.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    CliError,
    out::{Out, write_file},
    which::Which,
};
use crate::export;

/// For which engine
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    /// Real programs on a simulated kernel and network
    Shadow,
    /// Plain manifests for any cluster
    Kubernetes,
}

/// Write a scenario for an engine that spans machines
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft-sim export shadow wan --out wan-shadow
  weft-sim export kubernetes my.toml --out manifests && kubectl apply -k manifests")]
pub(crate) struct ExportArgs {
    /// The engine
    #[arg(value_enum, value_name = "ENGINE")]
    engine: Engine,
    #[command(flatten)]
    which: Which,
    /// Folder, made when it does not exist
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    out: PathBuf,
    /// The seed, instead of the scenario's
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write over files that are there
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct Exported {
    folder: PathBuf,
    files: Vec<String>,
}

/// Writes the files.
pub(crate) fn execute(out: &Out, args: &ExportArgs) -> Result<(), CliError> {
    let loaded = args.which.load()?;
    let seed = args.seed.unwrap_or(loaded.scenario.seed);
    let files = match args.engine {
        Engine::Shadow => export::shadow(&loaded.scenario, seed)?,
        Engine::Kubernetes => export::kubernetes(&loaded.scenario, seed)?,
    };
    let folder = &args.out;
    std::fs::create_dir_all(folder)
        .map_err(|error| CliError::io(format!("cannot make {}", folder.display()), error))?;
    if let Some(there) = files
        .iter()
        .map(|file| folder.join(&file.name))
        .find(|path| path.exists() && !args.force)
    {
        return Err(CliError::Usage(format!(
            "{} is there already: another --out, or --force",
            there.display()
        )));
    }
    for file in &files {
        write_file(&folder.join(&file.name), &file.text)?;
    }
    let names: Vec<String> = files.into_iter().map(|file| file.name).collect();
    if out.json {
        return out.document(&Exported {
            folder: folder.clone(),
            files: names,
        });
    }
    out.say(&format!(
        "{} files are in {}; its README.md says how it is started",
        names.len(),
        folder.display()
    ));
    Ok(())
}

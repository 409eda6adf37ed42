//! The command line: words for people over the local API of a running node.
//!
//! What it promises: data on standard output and talk on standard error; `--json` for every answer; the exit codes of
//! [`CliError`]; no command but `run`, `init`, `join`, `id` and `config` touches the data dir beyond finding the node's door.
//! What it does not: a stable layout of the forms meant for people. One file per command group; each has its arguments and its
//! `execute`.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

pub use error::CliError;
pub use output::ColorWhen;

use client::Client;

/// The passphrase that opens `what`, asked of the person at the terminal.
pub(crate) fn ask_passphrase(what: &str) -> Result<crate::trust::passphrase::Passphrase, crate::error::NodeError> {
    passphrase::known(what).map_err(|error| match error {
        CliError::Node(error) => error,
        other => crate::error::NodeError::invalid(other.to_string()),
    })
}
use output::Out;

mod backoff;
mod batch;
mod bench;
mod blob;
mod call;
mod cap;
mod client;
mod completions;
mod config;
mod consumer;
mod doctor;
mod error;
mod id;
pub mod init;
mod input;
mod invite;
pub mod join;
mod member;
mod output;
mod parse;
mod passphrase;
mod peers;
mod ping;
mod presence;
mod progress;
mod projection;
mod proof;
mod publish;
mod receipt;
pub mod run;
mod schedule;
mod schema;
mod serve;
mod service;
mod signals;
mod sim;
mod snapshot;
mod status;
mod stream;
mod subscribe;
mod trace;
mod view;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

/// A node of a brokerless mesh, and the commands to use it.
#[derive(Debug, Parser)]
#[command(
    name = "weft",
    version,
    disable_help_subcommand = true,
    after_help = "First things to try:\n  weft run                    start a node; it says how another machine joins it\n  \
                  weft serve greet --echo     offer a service to the mesh\n  weft call greet hello       call it, from any node of the mesh",
    after_long_help = EXIT_CODES
)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Threads for what blocks, most of it reading and syncing files. More only wait for each other's turn on the processors.
const BLOCKING_THREADS_MAX: usize = 128;
const EXIT_CODES: &str = "First things to try:
  weft run                    start a node; it says how another machine joins it
  weft serve greet --echo     offer a service to the mesh
  weft call greet hello       call it, from any node of the mesh

Exit codes:
  0  done
  1  failed
  2  wrong arguments or an invalid request
  3  not found
  4  denied
  5  unreachable, no node running, or out of time

Environment:
  WEFT_DATA_DIR          the data dir, when --data-dir is not given
  WEFT__SECTION__KEY     a value of the configuration, for `weft run`
  NO_COLOR               no colours";

/// What every command understands.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// Folder of the node's identity, store and API door
    #[arg(long, global = true, value_name = "DIR", env = "WEFT_DATA_DIR", value_hint = clap::ValueHint::DirPath)]
    pub data_dir: Option<PathBuf>,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Use colours
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorWhen,
    /// Say more on standard error; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::RunArgs>),
    Init(init::InitArgs),
    Join(join::JoinArgs),
    Invite(invite::InviteArgs),
    Id(id::IdArgs),
    Status(status::StatusArgs),
    Peers(peers::PeersArgs),
    Ping(ping::PingArgs),
    Member(member::MemberArgs),
    Cap(cap::CapArgs),
    Serve(Box<serve::ServeArgs>),
    Call(call::CallArgs),
    Service(service::ServiceArgs),
    Services(service::ListArgs),
    Bench(bench::BenchArgs),
    Receipt(receipt::ReceiptArgs),
    Pub(publish::PublishArgs),
    Sub(subscribe::SubscribeArgs),
    Trace(trace::TraceArgs),
    Presence(presence::PresenceArgs),
    Blob(blob::BlobArgs),
    Batch(batch::BatchArgs),
    Stream(stream::StreamArgs),
    Consumer(consumer::ConsumerArgs),
    Projection(projection::ProjectionArgs),
    Snapshot(snapshot::SnapshotArgs),
    Schedule(schedule::ScheduleArgs),
    Schema(schema::SchemaArgs),
    VerifyProof(proof::VerifyProofArgs),
    Doctor(doctor::DoctorArgs),
    Config(config::ConfigArgs),
    Sim(sim::SimArgs),
    Completions(completions::CompletionsArgs),
    Man(completions::ManArgs),
}

/// What a command works with.
pub(crate) struct Session {
    /// The global options.
    pub(crate) globals: Globals,
    /// The streams.
    pub(crate) out: Out,
}

impl Session {
    /// The data dir that the options and the environment name.
    pub(crate) fn data_dir(&self) -> Result<PathBuf, CliError> {
        Ok(crate::data_dir::resolve_for_process(self.globals.data_dir.as_deref())?)
    }

    /// The node on the data dir.
    pub(crate) fn client(&self) -> Result<Client, CliError> {
        Client::find(self.data_dir()?)
    }

    /// Says something only when `-v` was given.
    pub(crate) fn detail(&self, text: &str) {
        if self.globals.verbose > 0 {
            self.out.say(text);
        }
    }
}

/// Runs the command line to its end: parses, does, reports, and gives the exit code.
///
/// It makes its own runtime, because a command must be able to leave while a thread still waits for standard input.
pub fn main_with<I, T>(args: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed stream leaves nobody to tell.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let Some(command) = cli.command else {
        return greet(&cli.globals);
    };
    let runtime = match runtime_for(&command) {
        Ok(runtime) => runtime,
        Err(source) => return report(&cli.globals, &CliError::io("cannot start the runtime", source)),
    };
    let globals = cli.globals.clone();
    let session = Session {
        out: Out::standard(globals.json, globals.color),
        globals,
    };
    let outcome = runtime.block_on(dispatch(&session, command));
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&cli.globals, &error),
    }
}

async fn dispatch(session: &Session, command: Command) -> Result<(), CliError> {
    match command {
        // The node's future is large; the others should not carry its weight.
        Command::Run(args) => Box::pin(run::execute(session, *args)).await,
        Command::Init(args) => Box::pin(init::execute(session, args)).await,
        Command::Join(args) => Box::pin(join::execute(session, args)).await,
        Command::Invite(args) => invite::execute(session, args).await,
        Command::Id(args) => id::execute(session, args).await,
        Command::Status(args) => status::execute(session, &args).await,
        Command::Peers(args) => peers::execute(session, &args).await,
        Command::Ping(args) => ping::execute(session, &args).await,
        Command::Member(args) => member::execute(session, args).await,
        Command::Cap(args) => cap::execute(session, args).await,
        Command::Serve(args) => Box::pin(serve::execute(session, *args)).await,
        Command::Call(args) => call::execute(session, args).await,
        Command::Service(args) => service::execute(session, &args).await,
        Command::Services(args) => service::list(session, &args).await,
        Command::Receipt(args) => receipt::execute(session, args).await,
        Command::Bench(args) => Box::pin(bench::execute(session, args)).await,
        Command::Pub(args) => publish::execute(session, args).await,
        Command::Trace(args) => trace::execute(session, args).await,
        Command::Presence(args) => Box::pin(presence::execute(session, args)).await,
        Command::Blob(args) => blob::execute(session, args).await,
        Command::Sub(args) => Box::pin(subscribe::execute(session, &args)).await,
        Command::Batch(args) => batch::execute(session, args).await,
        Command::Stream(args) => Box::pin(stream::execute(session, args)).await,
        Command::Consumer(args) => Box::pin(consumer::execute(session, args)).await,
        Command::Projection(args) => Box::pin(projection::execute(session, args)).await,
        Command::Schedule(args) => Box::pin(schedule::execute(session, args)).await,
        Command::Schema(args) => Box::pin(schema::execute(session, args)).await,
        Command::Snapshot(args) => snapshot::execute(session, args).await,
        Command::VerifyProof(args) => proof::execute(session, &args).await,
        Command::Doctor(args) => doctor::execute(session, &args).await,
        Command::Config(args) => config::execute(session, args).await,
        Command::Sim(args) => sim::execute(session, &args),
        Command::Completions(args) => completions::completions(session, &args),
        Command::Man(args) => completions::man(session, &args),
    }
}

fn runtime_for(command: &Command) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match command {
        Command::Run(_) | Command::Init(_) | Command::Join(_) | Command::Bench(_) => {
            tokio::runtime::Builder::new_multi_thread()
        }
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    builder.enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).build()
}

fn greet(globals: &Globals) -> ExitCode {
    let out = Out::standard(globals.json, globals.color);
    let help = <Cli as clap::CommandFactory>::command().render_help();
    out.say(&if out.color_talk {
        help.ansi().to_string()
    } else {
        help.to_string()
    });
    ExitCode::from(2)
}

fn report(globals: &Globals, error: &CliError) -> ExitCode {
    if !error.is_silent() {
        let out = Out::standard(globals.json, globals.color);
        out.say(&format!("{} {error}", out.paint_talk(output::Tone::Bad, "weft:")));
        if let Some(hint) = error.hint() {
            out.say(&format!(
                "{} {}",
                out.paint_talk(output::Tone::Dim, "hint:"),
                output::escape(&hint)
            ));
        }
    }
    error.to_exit()
}

//! `weft invite`: tickets, by which other machines join.

use std::{collections::BTreeMap, time::Duration};

use clap::{Args, Subcommand};
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use serde_json::{Value, json};

use super::{
    CliError, Session,
    output::{Tone, escape},
    parse, view,
};

/// A QR code wider than this does not fit beside a prompt.
const QR_COLUMNS_MAX: usize = 120;

/// Make a ticket with which another machine joins this mesh
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  weft invite                                 one machine, within an hour
  weft invite --ttl 1d --uses 10 --role worker --label zone=eu
  TICKET=$(weft invite)                       the ticket alone is on standard output
  weft invite ls                              tickets that are still good
  weft invite rm ID                           take one back"
)]
pub(crate) struct InviteArgs {
    #[command(subcommand)]
    command: Option<InviteCommand>,
    /// How long the ticket is good
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse::duration_positive)]
    ttl: Duration,
    /// How many machines may join with it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// Role of those who join with it
    #[arg(long, value_name = "ROLE", default_value = "member")]
    role: String,
    /// Label of those who join with it; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::key_value)]
    labels: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
enum InviteCommand {
    /// List the tickets that are still good
    #[command(visible_alias = "list")]
    Ls,
    /// Take a ticket back
    #[command(visible_alias = "remove")]
    Rm {
        /// Id from `weft invite ls`
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// Makes, lists or takes back tickets.
pub(crate) async fn execute(session: &Session, args: InviteArgs) -> Result<(), CliError> {
    match args.command {
        None => make(session, args).await,
        Some(InviteCommand::Ls) => list(session).await,
        Some(InviteCommand::Rm { id }) => {
            session
                .client()?
                .delete(&format!("/v1/invites/{}", parse::percent(&id)))
                .await?;
            session.out.say(&format!("the ticket {} is taken back", escape(&id)));
            Ok(())
        }
    }
}

async fn make(session: &Session, args: InviteArgs) -> Result<(), CliError> {
    let labels: BTreeMap<_, _> = args.labels.into_iter().collect();
    let request = json!({ "ttl_s": args.ttl.as_secs().max(1), "uses": args.uses, "role": args.role, "labels": labels });
    let invite = session.client()?.post("/v1/invites", &request).await?;
    if session.out.json {
        return session.out.json_line(&invite);
    }
    let ticket = view::text(&invite, "ticket");
    if ticket.is_empty() {
        return Err(CliError::Protocol("the invite has no ticket".to_owned()));
    }
    if session.out.talk_terminal {
        explain(session, &invite, &ticket);
    }
    session.out.line(&escape(&ticket))
}

fn explain(session: &Session, invite: &Value, ticket: &str) {
    let out = &session.out;
    // Upper case fits the denser alphanumeric mode; tickets are read without regard to case.
    if let Ok(code) = QrCode::with_error_correction_level(ticket.to_ascii_uppercase(), EcLevel::L)
        && code.width() + 8 <= QR_COLUMNS_MAX
    {
        let picture = code
            .render::<Dense1x2>()
            .dark_color(Dense1x2::Light)
            .light_color(Dense1x2::Dark)
            .build();
        out.say(&picture);
    }
    let uses = invite.get("uses").and_then(Value::as_u64).unwrap_or(1);
    let machines = if uses == 1 {
        "one machine".to_owned()
    } else {
        format!("{uses} machines")
    };
    out.say(&format!(
        "Good for {machines} as `{}` until {}. On the other machine:",
        escape(&view::text(invite, "role")),
        escape(&view::text(invite, "expires_at"))
    ));
    out.say(&format!(
        "  {}",
        out.paint_talk(Tone::Strong, &format!("weft run --join {}", escape(ticket)))
    ));
    out.say("Whoever has the ticket can join: hand it over like a password. The ticket:");
}

async fn list(session: &Session) -> Result<(), CliError> {
    let invites = session.client()?.get("/v1/invites").await?;
    if session.out.json {
        return view::elements(&invites)
            .iter()
            .try_for_each(|invite| session.out.json_line(invite));
    }
    let row = |invite: &Value| {
        ["id", "role", "used", "uses", "expires_at"]
            .map(|key| view::text(invite, key))
            .to_vec()
    };
    let rows: Vec<_> = view::elements(&invites).iter().map(row).collect();
    session.out.table(
        &["ID", "ROLE", "USED", "USES", "EXPIRES"],
        &rows,
        "no tickets; make one with `weft invite`",
    )
}

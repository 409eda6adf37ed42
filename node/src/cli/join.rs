//! `weft join`: into a mesh with a ticket.

use std::io::IsTerminal;

use clap::Args;
use serde_json::json;

use super::{CliError, Session, input, output::escape, view};

/// Join a mesh with a ticket
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  weft join weft1…                       join; works with the node running or stopped
  ssh alpha weft invite | weft join -    the ticket from standard input, so that no process list shows it")]
pub struct JoinArgs {
    /// Ticket from `weft invite`; `-` reads it from standard input
    #[arg(value_name = "TICKET")]
    pub ticket: String,
}

/// Joins through the running node, or in this process when none runs.
pub(crate) async fn execute(session: &Session, args: JoinArgs) -> Result<(), CliError> {
    let ticket = ticket(args.ticket).await?;
    let answer = match session.client() {
        Ok(client) => client.post("/v1/join", &json!({ "ticket": ticket })).await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(joined) => {
            if session.out.json {
                return session.out.json_line(&joined);
            }
            session.out.say(&format!(
                "joined {} as {}",
                view::text(&joined, "mesh_id"),
                escape(&view::text(&joined, "roles"))
            ));
            Ok(())
        }
        Err(CliError::NoNode { .. }) => Ok(crate::launch::join(&session.globals, JoinArgs { ticket }).await?),
        Err(error) => Err(error),
    }
}

async fn ticket(argument: String) -> Result<String, CliError> {
    if argument != "-" {
        return Ok(argument);
    }
    if std::io::stdin().is_terminal() {
        return Err(CliError::Usage(
            "standard input is a terminal; give the ticket as an argument".to_owned(),
        ));
    }
    let bytes = input::body(None, None).await?;
    let text = std::str::from_utf8(&bytes).map_err(|_| CliError::Usage("the ticket is not text".to_owned()))?;
    match text.trim() {
        "" => Err(CliError::Usage("no ticket on standard input".to_owned())),
        ticket => Ok(ticket.to_owned()),
    }
}

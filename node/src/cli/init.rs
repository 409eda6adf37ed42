//! `weft init`: an identity and a mesh of one, before the first start.

use clap::Args;

use super::{CliError, Session};

/// Create the node's identity and found a mesh, without starting the node
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "Examples:
  weft init                    a private mesh: others join with a ticket from `weft invite`
  weft init --name alpha       with a name for this node
  weft init --open             an open mesh: anyone with an address may join")]
pub struct InitArgs {
    /// Name of the node, as others see it
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Found an open mesh: anyone with an address may join
    #[arg(long)]
    pub open: bool,
}

/// Creates what is missing and says what there is.
pub(crate) async fn execute(session: &Session, args: InitArgs) -> Result<(), CliError> {
    Ok(crate::launch::init(&session.globals, args).await?)
}

//! A tenth pattern, by an outsider: every node has a whiteboard, and any member may write its line on any of them.
#![expect(clippy::print_stdout, reason = "an example says what happens")]

use weft_node::mesh::{InboundStream, Mesh, read_bytes, write_bytes};
use weft_node::{Context, Node, NodeError, Pattern, context::greeting, store::Keyspace};
use weft_protocol::{PeerId, Verb};

mod support;

struct Whiteboard;

impl Pattern for Whiteboard {
    const ID: &'static str = "whiteboard";
    type Handle = Board;

    async fn start(self, context: Context) -> Result<Board, NodeError> {
        let (mut doors, keyspace, each) = (context.doors, context.keyspace, context.tasks.child());
        context.tasks.spawn("whiteboard", async move {
            // The node has read the greeting: this is a member, and it may do what it asks for.
            while let Some(inbound) = doors.streams.recv().await {
                let kept = keep_line(inbound, keyspace.clone());
                each.spawn("whiteboard-line", async { drop(kept.await) });
            }
        });
        Ok(Board(context.mesh))
    }
}

async fn keep_line(mut inbound: Box<InboundStream>, keyspace: Keyspace) -> Result<(), NodeError> {
    let line = read_bytes(&mut inbound.stream, 1024).await?.unwrap_or_default();
    keyspace.put(inbound.peer.to_bytes(), line.clone()).await?;
    // Only now, because what is acknowledged is on the disk.
    Ok(write_bytes(&mut inbound.stream, &line).await?)
}

#[derive(Clone)]
struct Board(Mesh);

impl Board {
    async fn write(&self, on: PeerId, line: &str) -> Result<Option<Vec<u8>>, NodeError> {
        let hello = greeting(Whiteboard::ID, self.0.trust(), Verb::Call, &"whiteboard".parse()?);
        let mut stream = self.0.open(on, &hello).await?;
        write_bytes(&mut stream, line.as_bytes()).await?;
        Ok(read_bytes(&mut stream, 1024).await?)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let (alpha, beta) = support::two_nodes(dir.path(), || Node::builder().pattern(Whiteboard)).await?;
    let board = beta.handle::<Whiteboard>().ok_or("beta has no whiteboard")?;
    let line = board.write(alpha.mesh().local_peer(), "hello from beta").await?;
    let line = String::from_utf8(line.ok_or("alpha kept nothing")?)?;
    println!("alpha keeps {line:?}");
    let _ = (beta.stop().await, alpha.stop().await);
    Ok(())
}

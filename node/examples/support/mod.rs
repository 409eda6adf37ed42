//! Two nodes in one process, over loopback: what the examples stand on.

use std::{path::Path, sync::Arc};

use weft_node::mesh::MeshConfig;
use weft_node::platform::{Platform as _, RealPlatform, new_key};
use weft_node::trust::{FoundOptions, MeshKind};
use weft_node::{Node, NodeBuilder, NodeError, NodeOptions};
use weft_protocol::Multiaddr;

/// Alpha, who founded an open mesh, and beta, who has joined it.
pub(crate) async fn two_nodes(dir: &Path, builder: fn() -> NodeBuilder) -> Result<(Node, Node), NodeError> {
    let alpha = start("alpha", dir, builder(), Vec::new()).await?;
    let root = new_key(&*RealPlatform.entropy());
    let options = FoundOptions {
        kind: MeshKind::Open,
        name: "alpha".into(),
    };
    alpha.trust().found(&root, options).await?;
    alpha.wait_ready().await;
    let beta = start("beta", dir, builder(), alpha.addresses()).await?;
    beta.wait_ready().await;
    Ok((alpha, beta))
}

async fn start(name: &str, dir: &Path, builder: NodeBuilder, bootstrap: Vec<Multiaddr>) -> Result<Node, NodeError> {
    let mesh = MeshConfig {
        bootstrap,
        ..MeshConfig::on_loopback(name)
    };
    let key = new_key(&*RealPlatform.entropy());
    let options = NodeOptions::new(key, dir.join(name), mesh);
    builder.start(Arc::new(RealPlatform), options).await
}

//! Bodies of any size between a client and the mesh: no faster than the slower of the two.

use axum::body::Body;
use futures::{StreamExt as _, stream};

use crate::{
    error::{ErrorKind, NodeError},
    patterns::body::{BodyReader, BodyWriter, body},
    tasks::Tasks,
};

/// What a client sends, to be read as it comes.
pub(crate) fn incoming(tasks: &Tasks, from: Body) -> BodyReader {
    let (writer, reader) = body();
    tasks.spawn("api-body", async move {
        // Without its end the body is seen to have broken off.
        let _ = carry(from, writer, std::future::pending()).await;
    });
    reader
}

/// From the client to the mesh; `failed` says that there will be no end, and why.
pub(crate) async fn carry(
    from: Body,
    mut to: BodyWriter,
    failed: impl Future<Output = (u16, String)>,
) -> Result<(), NodeError> {
    let mut parts = from.into_data_stream();
    let mut failed = std::pin::pin!(failed);
    let unread = || NodeError::closed("whoever was to read this has gone");
    loop {
        let part = tokio::select! {
            biased;
            (code, reason) = &mut failed => {
                to.fail(code, &reason).await;
                return Ok(());
            }
            () = to.unread() => return Err(unread()),
            part = parts.next() => part,
        };
        match part {
            Some(Ok(bytes)) => to.send(bytes).await.map_err(|_| unread())?,
            Some(Err(error)) => {
                return Err(NodeError::new(
                    ErrorKind::Closed,
                    format!("the body broke off: {error}"),
                ));
            }
            None => return to.finish().await.map_err(|_| unread()),
        }
    }
}

/// From the mesh to the client, as a body that breaks off where the other does.
pub(crate) fn outgoing(from: BodyReader) -> Body {
    let parts = stream::unfold(Some(from), |reader| async {
        let mut reader = reader?;
        match reader.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(reader))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Body::from_stream(parts)
}

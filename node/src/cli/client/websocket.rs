//! A WebSocket to the node over whichever door is open.

use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, header};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, handshake::client::generate_key, protocol::WebSocketConfig},
};

use super::{
    doors::{Stream, Via},
    problem::Problem,
};
use crate::cli::error::CliError;

/// Largest message either side may send: a body of 1 MiB and its header, with room to spare.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long the node has for the handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// An open WebSocket.
pub(crate) type Socket = WebSocketStream<Box<dyn Stream>>;

/// The client's side of the handshake.
pub(super) async fn open(stream: Box<dyn Stream>, via: &Via, path: &str) -> Result<Socket, CliError> {
    let mut request = via.request(Method::GET, &format!("ws://{}{path}", via.authority), ())?;
    let fields = request.headers_mut();
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    let key = HeaderValue::from_str(&generate_key()).map_err(|error| CliError::Protocol(error.to_string()))?;
    fields.insert(header::SEC_WEBSOCKET_KEY, key);
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        .max_write_buffer_size(2 * MESSAGE_BYTES_MAX);
    let shaking = client_async_with_config(request, stream, Some(config));
    match tokio::time::timeout(HANDSHAKE_TIME_MAX, shaking).await {
        Ok(Ok((socket, _response))) => Ok(socket),
        Ok(Err(error)) => Err(refused(error)),
        Err(_) => Err(CliError::Timeout(
            "the node did not accept the WebSocket in time".to_owned(),
        )),
    }
}

fn refused(error: tungstenite::Error) -> CliError {
    match error {
        tungstenite::Error::Http(response) => {
            let status = StatusCode::from_u16(response.status().as_u16()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let body = response.body().as_deref().unwrap_or_default();
            CliError::Api(Box::new(Problem::from_answer(status, body)))
        }
        other => CliError::Lost(other.to_string()),
    }
}

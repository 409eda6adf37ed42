//! Where a node listens for its own machine, and getting in.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{HeaderValue, Method, Request, header};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use crate::cli::error::CliError;

/// The file in the data dir that names the doors.
const DOORS_FILE: &str = "api.json";
/// The file in the data dir that holds the token.
const TOKEN_FILE: &str = "api.token";
/// Both files are far smaller; anything bigger is not ours.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// A door on the same machine opens at once or not at all.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// A byte stream to the node, whichever door it came through.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The doors of the node on one data dir.
#[derive(Debug)]
pub(crate) struct Doors {
    dir: PathBuf,
    socket: Option<PathBuf>,
    tcp: Option<SocketAddr>,
}

#[derive(Deserialize)]
struct DoorsFile {
    #[serde(default)]
    api: Option<String>,
    #[serde(default)]
    socket: Option<PathBuf>,
}

impl Doors {
    /// Reads `api.json`; its absence means that no node runs there.
    pub(crate) fn read(dir: PathBuf) -> Result<Self, CliError> {
        let path = dir.join(DOORS_FILE);
        let text = match read_small(&path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(CliError::NoNode { dir });
            }
            Err(error) => return Err(CliError::io(format!("cannot read {}", path.display()), error)),
        };
        let file: DoorsFile = serde_json::from_str(&text)
            .map_err(|error| CliError::Protocol(format!("{} is damaged: {error}", path.display())))?;
        let tcp = match file.api {
            Some(url) => Some(tcp_address(&url).ok_or_else(|| {
                CliError::Protocol(format!(
                    "{} names `{}`, which is not http://ADDRESS:PORT",
                    path.display(),
                    url.escape_debug()
                ))
            })?),
            None => None,
        };
        Ok(Self {
            dir,
            socket: file.socket,
            tcp,
        })
    }

    /// Connects to the first door that opens.
    pub(crate) async fn connect(&self) -> Result<(Box<dyn Stream>, Via), CliError> {
        let mut denied = None;
        if let Some(socket) = &self.socket {
            match in_time(UnixStream::connect(socket)).await {
                Ok(stream) => {
                    return Ok((
                        Box::new(stream),
                        Via {
                            authority: "localhost".to_owned(),
                            token: None,
                        },
                    ));
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    denied = Some(CliError::io(format!("may not open {}", socket.display()), error));
                }
                // Gone or refused: the other door may still be open.
                Err(_) => {}
            }
        }
        if let Some(address) = self.tcp {
            match self.connect_tcp(address).await {
                Ok(found) => return Ok(found),
                Err(error @ CliError::Io { .. }) => denied = denied.or(Some(error)),
                Err(_) => {}
            }
        }
        Err(denied.unwrap_or_else(|| CliError::NoNode { dir: self.dir.clone() }))
    }

    async fn connect_tcp(&self, address: SocketAddr) -> Result<(Box<dyn Stream>, Via), CliError> {
        let no_node = || CliError::NoNode { dir: self.dir.clone() };
        let stream = in_time(TcpStream::connect(address)).await.map_err(|_| no_node())?;
        stream.set_nodelay(true).map_err(|_| no_node())?;
        let path = self.dir.join(TOKEN_FILE);
        let token =
            read_small(&path).map_err(|error| CliError::io(format!("cannot read {}", path.display()), error))?;
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .map_err(|_| CliError::Protocol(format!("{} holds no token", path.display())))?;
        bearer.set_sensitive(true);
        Ok((
            Box::new(stream),
            Via {
                authority: address.to_string(),
                token: Some(bearer),
            },
        ))
    }
}

/// The door a connection went through: what its requests must carry.
#[derive(Debug, Clone)]
pub(crate) struct Via {
    /// For the `Host` field.
    pub(crate) authority: String,
    token: Option<HeaderValue>,
}

impl Via {
    /// A request with the fields that this door demands.
    pub(crate) fn request<B>(&self, method: Method, path: &str, body: B) -> Result<Request<B>, CliError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.authority);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token);
        }
        request
            .body(body)
            .map_err(|error| CliError::Usage(format!("not a possible request: {error}")))
    }
}

async fn in_time<T>(connecting: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(CONNECT_TIME_MAX, connecting)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn read_small(path: &Path) -> io::Result<String> {
    use std::io::Read;

    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file"));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn tcp_address(url: &str) -> Option<SocketAddr> {
    url.strip_prefix("http://")?.trim_end_matches('/').parse().ok()
}

//! A small HTTP/1.1 client over a raw socket: it sends what it is told, also what no honest client would send.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// How long an answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body, with the chunks joined.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {self:?}"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Checks that this is a problem document of RFC 9457, and returns it.
    #[track_caller]
    pub fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{} {}", self.status, self.text());
        let content = self.header("content-type").unwrap_or_default();
        assert!(
            content.starts_with("application/problem+json"),
            "{content}: {}",
            self.text()
        );
        let problem = self.json();
        for field in ["type", "title", "detail", "kind"] {
            assert!(problem[field].is_string(), "{field} in {problem}");
        }
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["kind"], kind, "{problem}");
        assert!(problem["retryable"].is_boolean(), "{problem}");
        problem
    }
}

/// A request to be sent as it stands.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A request without anything but what HTTP demands.
    pub fn new(method: &str, target: &str) -> Self {
        Request {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds the bearer token.
    #[must_use]
    pub fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    /// Sets a JSON body.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json")
            .body(body.to_string().as_bytes())
    }

    /// Sends it on a new connection.
    ///
    /// # Errors
    /// What the socket says.
    pub fn send(&self, to: SocketAddr) -> io::Result<Answer> {
        let mut socket = connect(to)?;
        socket.write_all(&self.head(to))?;
        // A server that refuses early may have closed already.
        let _ = socket.write_all(&self.body);
        read_answer(&mut socket)
    }

    /// The request line and the headers.
    pub fn head(&self, to: SocketAddr) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        let mut lines: Vec<(String, String)> = self.headers.clone();
        let has = |name: &str| self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        if !has("host") {
            lines.push(("host".to_owned(), to.to_string()));
        }
        if !has("content-length") && (!self.body.is_empty() || self.method == "POST") {
            lines.push(("content-length".to_owned(), self.body.len().to_string()));
        }
        for (name, value) in lines {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.into_bytes()
    }
}

/// A socket with time limits.
///
/// # Errors
/// What the socket says.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(to)?;
    socket.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    socket.set_write_timeout(Some(ANSWER_TIME_MAX))?;
    Ok(socket)
}

/// Reads one answer.
///
/// # Errors
/// What the socket says; what is not HTTP.
pub fn read_answer(socket: &mut impl io::Read) -> io::Result<Answer> {
    let (status, headers, mut rest) = read_head(socket)?;
    let mut answer = Answer {
        status,
        headers,
        body: Vec::new(),
    };
    if answer
        .header("transfer-encoding")
        .is_some_and(|v| v.contains("chunked"))
    {
        socket_to_end_of_chunks(socket, &mut rest)?;
        answer.body = join_chunks(&rest).0;
    } else if let Some(length) = answer.header("content-length").and_then(|v| v.parse::<usize>().ok()) {
        while rest.len() < length {
            read_some(socket, &mut rest)?;
        }
        answer.body = rest[..length].to_vec();
    } else {
        answer.body = rest;
    }
    Ok(answer)
}

type Head = (u16, Vec<(String, String)>, Vec<u8>);

/// Reads status and headers, and what of the body came with them.
///
/// # Errors
/// What the socket says; what is not HTTP.
pub fn read_head(socket: &mut impl io::Read) -> io::Result<Head> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = find(&bytes, b"\r\n\r\n") {
            break end;
        }
        read_some(socket, &mut bytes)?;
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|l| l.split(' ').nth(1))
        .and_then(|s| s.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("not an answer: {head}")))?;
    let headers = lines
        .filter_map(|l| l.split_once(':'))
        .map(|(n, v)| (n.to_lowercase(), v.trim().to_owned()))
        .collect();
    Ok((status, headers, bytes[end + 4..].to_vec()))
}

fn read_some(socket: &mut impl io::Read, into: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    match socket.read(&mut buffer)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        n => {
            into.extend_from_slice(&buffer[..n]);
            Ok(())
        }
    }
}

fn socket_to_end_of_chunks(socket: &mut impl io::Read, bytes: &mut Vec<u8>) -> io::Result<()> {
    while !join_chunks(bytes).1 {
        read_some(socket, bytes)?;
    }
    Ok(())
}

/// The data of the whole chunks in `bytes`, and whether the last chunk was among them.
pub fn join_chunks(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    while let Some(end) = find(bytes, b"\r\n") {
        let line = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let Ok(length) = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16) else {
            break;
        };
        if length == 0 {
            return (all, true);
        }
        let Some(chunk) = bytes.get(end + 2..end + 2 + length) else {
            break;
        };
        all.extend_from_slice(chunk);
        bytes = bytes.get(end + 4 + length..).unwrap_or_default();
    }
    (all, false)
}

/// Where `needle` begins.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

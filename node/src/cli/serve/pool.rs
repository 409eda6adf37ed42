//! A call as a line: to one of a few processes that stay, and a line back.
//!
//! Promises: a process has one call at a time. What it writes for one call never answers another: when a call ends before its answer
//! (deadline, cancel), its process is killed with its group, and the next call starts a new one. A process that ends by itself makes
//! the call it had fail with its last words, and no other.
//!
//! A line is the body itself, or JSON ([`Lines`]).

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use clap::ValueEnum;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    sync::Semaphore,
};

use super::{
    exec::{Exec, Group, reason},
    frame::Request,
    handler::{ANSWER_BYTES_MAX, Answer, Failure, REASON_BYTES_MAX},
};

/// How long a process that has closed its output may take to end.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// JSON makes of a byte at most so many.
const LINE_BYTES_MAX: u64 = ANSWER_BYTES_MAX as u64 * 6 + 64 * 1024;

/// What a line holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Lines {
    /// The body of the request, and the body of the answer
    #[default]
    Text,
    /// An object: endpoint, headers, caller, deadline_ms, data or data_base64; back: data or data_base64, headers, or error
    Json,
}

/// The processes of a service. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    exec: Exec,
    lines: Lines,
    places: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Worker>>>,
}

/// A call, as a process is told of it.
#[derive(Debug, Serialize)]
struct Asked<'a> {
    endpoint: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

/// What a process says.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Said {
    headers: BTreeMap<String, String>,
    data: Option<String>,
    data_base64: Option<String>,
    error: Option<SaidError>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SaidError {
    #[serde(default = "internal")]
    code: u16,
    reason: String,
}

fn internal() -> u16 {
    500
}

#[derive(Debug)]
struct Worker {
    child: Child,
    group: Group,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
    /// The end of what it wrote to its standard error.
    words: Vec<u8>,
}

impl Pool {
    /// At most `size` processes of this command, each started when it is needed first.
    pub(super) fn new(exec: Exec, size: u16, lines: Lines) -> Self {
        Pool {
            exec,
            lines,
            places: Arc::new(Semaphore::new(usize::from(size))),
            idle: Arc::default(),
        }
    }

    /// Has one process answer one call. Dropping the future kills that process.
    pub(super) async fn handle(&self, request: &Request, body: Bytes) -> Result<Answer, Failure> {
        let line = self.line(request, &body)?;
        let place = self.places.acquire().await;
        let _place = place.map_err(|_| Failure::new(503, "the service is stopping"))?;
        let mut worker = match self.take_idle() {
            Some(worker) => worker,
            None => Worker::start(&self.exec, request)?,
        };
        let answer = worker.exchange(&line).await?;
        // Only one that has said all it had to say is asked again.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
        self.answer(answer)
    }

    /// One that waits. One that has ended meanwhile is forgotten: it had no call.
    fn take_idle(&self) -> Option<Worker> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(mut worker) = idle.pop() {
            if matches!(worker.child.try_wait(), Ok(None)) {
                return Some(worker);
            }
            worker.group.disarm();
        }
        None
    }

    fn line(&self, request: &Request, body: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut line = match self.lines {
            Lines::Text if body.contains(&b'\n') => {
                return Err(Failure::new(400, "this service takes one line; the request has more"));
            }
            Lines::Text => body.to_vec(),
            Lines::Json => {
                let text = std::str::from_utf8(body).ok();
                let asked = Asked {
                    endpoint: request.endpoint.as_deref().unwrap_or_default(),
                    headers: &request.headers,
                    caller: request.caller.as_deref(),
                    deadline_ms: request.deadline_ms,
                    data: text,
                    data_base64: text.is_none().then(|| BASE64.encode(body)),
                };
                serde_json::to_vec(&asked).map_err(|error| Failure::new(500, format!("cannot write JSON: {error}")))?
            }
        };
        line.push(b'\n');
        Ok(line)
    }

    fn answer(&self, line: Vec<u8>) -> Result<Answer, Failure> {
        let body = match self.lines {
            Lines::Text if line.len() > ANSWER_BYTES_MAX => return Err(too_large()),
            Lines::Text => {
                return Ok(Answer {
                    body: line.into(),
                    ..Answer::default()
                });
            }
            Lines::Json => line,
        };
        let wrong = |why: String| Failure::new(502, format!("the command's line is no answer: {why}"));
        let said: Said = serde_json::from_slice(&body).map_err(|error| wrong(error.to_string()))?;
        if let Some(SaidError { code, mut reason }) = said.error {
            let end = (0..=REASON_BYTES_MAX.min(reason.len()))
                .rev()
                .find(|at| reason.is_char_boundary(*at));
            reason.truncate(end.unwrap_or(0));
            let code = if (400..600).contains(&code) { code } else { internal() };
            return Err(Failure::new(code, reason));
        }
        let body: Bytes = match (said.data, said.data_base64) {
            (Some(_), Some(_)) => return Err(wrong("it has two bodies".to_owned())),
            (Some(text), None) => text.into(),
            (None, Some(base64)) => BASE64
                .decode(base64.as_bytes())
                .map_err(|error| wrong(error.to_string()))?
                .into(),
            (None, None) => Bytes::new(),
        };
        if body.len() > ANSWER_BYTES_MAX {
            return Err(too_large());
        }
        Ok(Answer {
            headers: said.headers,
            body,
        })
    }
}

fn too_large() -> Failure {
    Failure::new(
        500,
        format!("the command's answer is larger than {ANSWER_BYTES_MAX} bytes"),
    )
}

impl Worker {
    fn start(exec: &Exec, request: &Request) -> Result<Self, Failure> {
        let mut command = exec.command();
        command.env("WEFT_SERVICE", &request.service);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| Failure::new(500, format!("cannot start the command: {error}")))?;
        let group = Group::of(&child);
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Failure::new(500, "the command has no pipes"));
        };
        Ok(Worker {
            child,
            group,
            stdin,
            stdout: BufReader::new(stdout),
            stderr: BufReader::new(stderr),
            words: Vec::new(),
        })
    }

    /// A line there and a line back, without its end.
    async fn exchange(&mut self, line: &[u8]) -> Result<Vec<u8>, Failure> {
        let Worker {
            stdin,
            stdout,
            stderr,
            words,
            ..
        } = self;
        words.clear();
        let mut answer = Vec::new();
        let exchange = async {
            stdin.write_all(line).await?;
            stdin.flush().await?;
            (&mut *stdout).take(LINE_BYTES_MAX).read_until(b'\n', &mut answer).await
        };
        let read = {
            let mut exchange = std::pin::pin!(exchange);
            let mut hear = std::pin::pin!(hear(stderr, words));
            tokio::select! {
                biased;
                read = &mut exchange => read,
                // It closed its standard error, which says nothing of its answer.
                () = &mut hear => exchange.await,
            }
        };
        if answer.len() as u64 >= LINE_BYTES_MAX {
            return Err(too_large());
        }
        if answer.last() == Some(&b'\n') {
            answer.pop();
            return Ok(answer);
        }
        match read {
            // It ended, or closed its output: its last words say why.
            Ok(_) | Err(_) => Err(self.last_words().await),
        }
    }

    async fn last_words(&mut self) -> Failure {
        let end = async {
            hear(&mut self.stderr, &mut self.words).await;
            self.child.wait().await
        };
        match tokio::time::timeout(END_PATIENCE, end).await {
            Ok(Ok(status)) => {
                self.group.disarm();
                let how = reason(status, &self.words);
                Failure::new(500, format!("{how}, before it answered"))
            }
            Ok(Err(error)) => Failure::new(500, format!("lost the command: {error}")),
            Err(_) => Failure::new(500, "the command closed its output before it answered"),
        }
    }
}

/// Reads to the end, and keeps the end. Cancel-safe.
async fn hear(stderr: &mut BufReader<ChildStderr>, words: &mut Vec<u8>) {
    loop {
        let read = match stderr.fill_buf().await {
            Ok(bytes) if !bytes.is_empty() => {
                words.extend_from_slice(bytes);
                bytes.len()
            }
            _ => return,
        };
        stderr.consume(read);
        let excess = words.len().saturating_sub(REASON_BYTES_MAX);
        words.drain(..excess);
    }
}

#[cfg(test)]
mod tests;

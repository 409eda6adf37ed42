//! A call as a process: the request on its standard input, its standard output the answer.
//!
//! The process leads a group of its own; when the call is dropped (deadline, cancel, end of the program) the whole group is
//! killed. Both output streams are read to their end while the input is written, so that no order of reading and writing in the
//! command can block the call.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

use super::{
    frame::Request,
    handler::{ANSWER_BYTES_MAX, Answer, Failure, REASON_BYTES_MAX},
};
use crate::cli::CliError;

/// Longest single value in the environment of the command.
const VALUE_BYTES_MAX: usize = 16 * 1024;

/// The command of a service.
#[derive(Debug, Clone)]
pub(super) struct Exec {
    script: String,
    /// Set when the words are the path of a program, which may hold blanks that a shell would split.
    program: Option<PathBuf>,
}

impl Exec {
    /// A command line for the shell, or the path of a program.
    pub(super) fn new(command: &str) -> Result<Self, CliError> {
        if command.trim().is_empty() || command.contains('\0') {
            return Err(CliError::Usage("--exec needs a command".to_owned()));
        }
        let program = Path::new(command);
        let is_program = program
            .metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
        let program = if is_program {
            let absolute = std::path::absolute(program);
            Some(absolute.map_err(|error| CliError::io(format!("cannot find {command}"), error))?)
        } else {
            None
        };
        Ok(Self {
            script: command.to_owned(),
            program,
        })
    }

    /// Runs the command for one call.
    pub(super) async fn handle(&self, request: &Request, body: Bytes, limit: Duration) -> Result<Answer, Failure> {
        let mut child = self.spawn(request, limit)?;
        let mut group = Group::of(&child);
        let (mut stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async move {
            if let Some(stdin) = &mut stdin {
                // A command that does not read its input closes it early; that is its right.
                let _ = stdin.write_all(&body).await;
                let _ = stdin.shutdown().await;
            }
            drop(stdin);
        };
        let read = async { tokio::join!(head(stdout), tail(stderr)) };
        let exchange = async {
            let mut read = std::pin::pin!(read);
            tokio::select! {
                // The input may stay unread for ever; the ends of the outputs decide.
                outputs = &mut read => outputs,
                () = feed => read.await,
            }
        };
        let (answer, words) = exchange.await;
        let answer = answer?;
        let status = child
            .wait()
            .await
            .map_err(|error| Failure::new(500, format!("lost the command: {error}")))?;
        group.disarm();
        if status.success() {
            return Ok(Answer {
                body: answer,
                ..Answer::default()
            });
        }
        Err(Failure::new(500, reason(status, &words)))
    }

    /// The command, in a process group of its own that ends with it.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("sh");
        match &self.program {
            // Through the shell, which also runs a script that names no interpreter.
            Some(program) => command.arg("-c").arg("\"$0\"").arg(program),
            None => command.arg("-c").arg(&self.script),
        };
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        command
    }

    pub(super) fn spawn(&self, request: &Request, limit: Duration) -> Result<Child, Failure> {
        let mut command = self.command();
        for (name, value) in environment(request, limit) {
            command.env(name, value);
        }
        command
            .spawn()
            .map_err(|error| Failure::new(500, format!("cannot start the command: {error}")))
    }
}

/// What the command is told about the call. Values that no environment can hold are left out.
fn environment(request: &Request, limit: Duration) -> Vec<(String, String)> {
    let mut pairs = vec![
        ("WEFT_CALLER".to_owned(), request.caller.clone().unwrap_or_default()),
        ("WEFT_SERVICE".to_owned(), request.service.clone()),
        ("WEFT_ENDPOINT".to_owned(), request.endpoint.clone().unwrap_or_default()),
        ("WEFT_DEADLINE_MS".to_owned(), limit.as_millis().to_string()),
        (
            "TRACEPARENT".to_owned(),
            request.traceparent.clone().unwrap_or_default(),
        ),
    ];
    for (name, value) in &request.headers {
        let name: String = name
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_uppercase()
                } else {
                    '_'
                }
            })
            .collect();
        pairs.push((format!("WEFT_HEADER_{name}"), value.clone()));
    }
    pairs.retain(|(_, value)| !value.contains('\0') && value.len() <= VALUE_BYTES_MAX);
    pairs
}

/// All of a stream, or a failure when it is more than an answer may be.
async fn head(stream: Option<impl AsyncRead + Unpin>) -> Result<Bytes, Failure> {
    let Some(stream) = stream else { return Ok(Bytes::new()) };
    let mut bytes = Vec::new();
    let limit = ANSWER_BYTES_MAX as u64 + 1;
    let read = stream.take(limit).read_to_end(&mut bytes).await;
    read.map_err(|error| Failure::new(500, format!("cannot read the command's output: {error}")))?;
    if bytes.len() > ANSWER_BYTES_MAX {
        return Err(Failure::new(
            500,
            format!("the command's output is larger than {ANSWER_BYTES_MAX} bytes"),
        ));
    }
    Ok(Bytes::from(bytes))
}

/// The end of a stream, read to its end.
pub(super) async fn tail(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else { return kept };
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..read]);
        let excess = kept.len().saturating_sub(REASON_BYTES_MAX);
        kept.drain(..excess);
    }
    kept
}

pub(super) fn reason(status: ExitStatus, words: &[u8]) -> String {
    use std::os::unix::process::ExitStatusExt;

    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("the command exited with status {code}"),
        (None, Some(signal)) => format!("the command was killed by signal {signal}"),
        (None, None) => "the command failed".to_owned(),
    };
    let words = String::from_utf8_lossy(words);
    match words.trim() {
        "" => how,
        words => format!("{how}: {words}"),
    }
}

/// Kills a process group unless it ended by itself.
#[derive(Debug)]
pub(super) struct Group(Option<Pid>);

impl Group {
    pub(super) fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// The leader has ended and was waited for: its number may belong to someone else soon.
    pub(super) fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended just now, which is all that was wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

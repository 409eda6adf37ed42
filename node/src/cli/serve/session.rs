//! One connection of a serving command to its node: requests in, answers out, until one side ends it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{SinkExt, StreamExt, stream::SplitSink};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
};
use tokio_tungstenite::tungstenite::{self, Message};

use super::{
    End, ServeArgs, Signals,
    frame::{self, FromNode, Request, ToNode},
    handler::{Failure, Handler},
    streamed,
};
use crate::cli::{
    CliError, Session,
    client::Socket,
    output::{Tone, escape},
};

/// How long the node may take until it offers the service.
const READY_TIME_MAX: Duration = Duration::from_secs(30);
/// After the last answer of a drain, a request that was under way arrives within this time or never.
const DRAIN_QUIET: Duration = Duration::from_millis(200);
/// Answers that wait for the connection.
const ANSWERS_WAITING_MAX: usize = 16;
/// Requests beyond the concurrency that may wait for their turn; more are refused as busy.
const REQUESTS_WAITING_MAX: usize = 256;

/// Waits for the node's `ready`.
pub(super) async fn await_ready(socket: &mut Socket) -> Result<(), CliError> {
    let waiting = async {
        while let Some(message) = socket.next().await {
            match message.map_err(lost)? {
                Message::Binary(bytes) if matches!(frame::decode(bytes.clone())?.0, FromNode::Ready {}) => {
                    return Ok(());
                }
                Message::Close(frame) => return Err(closed(frame.as_ref())),
                _ => {}
            }
        }
        Err(CliError::Lost("the node closed it".to_owned()))
    };
    let outcome = tokio::time::timeout(READY_TIME_MAX, waiting).await;
    outcome.unwrap_or_else(|_| {
        Err(CliError::Timeout(
            "the node did not offer the service in time".to_owned(),
        ))
    })
}

/// What a message of the node means for the connection.
enum Word {
    Nothing,
    /// Somebody asked for the end.
    Drain,
    /// This is the end.
    Drained,
}

/// The calls of one connection that are not answered yet.
struct Calls<'a> {
    session: &'a Session,
    handler: &'a Handler,
    permits: Arc<Semaphore>,
    running: JoinSet<u64>,
    by_id: HashMap<u64, AbortHandle>,
    answers: mpsc::Sender<Bytes>,
    concurrency: usize,
}

/// Answers requests until the node goes away or the user stops it.
pub(super) async fn run(
    session: &Session,
    socket: Socket,
    handler: &Handler,
    (args, schemas): (&ServeArgs, &[(String, String)]),
    signals: &mut Signals,
) -> Result<End, CliError> {
    let (mut sink, mut stream) = socket.split();
    for (endpoint, schema) in schemas {
        let endpoint = endpoint.clone();
        let message = frame::encode(&ToNode::Schema { endpoint }, schema.as_bytes())?;
        sink.send(Message::Binary(message)).await.map_err(lost)?;
    }
    let (answers, waiting) = mpsc::channel(ANSWERS_WAITING_MAX);
    // Writing has its own task: a node that is slow to read must not keep us from hearing its cancels.
    let writer = tokio::spawn(write(sink, waiting));
    let concurrency = usize::from(args.concurrency);
    let mut calls = Calls {
        session,
        handler,
        permits: Arc::new(Semaphore::new(concurrency)),
        running: JoinSet::new(),
        by_id: HashMap::new(),
        answers,
        concurrency,
    };
    let mut is_draining = false;
    let end = loop {
        let is_quiet = is_draining && calls.running.is_empty();
        tokio::select! {
            message = stream.next() => match message {
                Some(Ok(Message::Binary(bytes))) => match calls.take(bytes)? {
                    Word::Nothing => {}
                    Word::Drain => {
                        if !std::mem::replace(&mut is_draining, true) {
                            session.out.say("asked to stop; what is running is finished");
                        }
                    }
                    Word::Drained if calls.running.is_empty() => break End::Stopped,
                    Word::Drained => is_draining = true,
                },
                Some(Ok(Message::Close(frame))) if !is_draining => break End::Lost(closed(frame.as_ref())),
                Some(Ok(Message::Close(_))) | None if is_draining => break End::Stopped,
                None => break End::Lost(CliError::Lost("the node closed it".to_owned())),
                Some(Err(error)) => break End::Lost(lost(error)),
                Some(Ok(_)) => {}
            },
            Some(ended) = calls.running.join_next() => calls.forget(ended),
            // The second signal: the calls are dropped, and their processes with them.
            () = signals.next() => {
                if std::mem::replace(&mut is_draining, true) {
                    return Err(CliError::Exit(130));
                }
                session.out.say(&format!("stopping; {} calls are still running", calls.running.len()));
                calls.say_drain()?;
            }
            () = tokio::time::sleep(DRAIN_QUIET), if is_quiet => break End::Stopped,
        }
    };
    calls.running.shutdown().await;
    drop(calls);
    // The answers that are written already go out before the connection is closed.
    if matches!(end, End::Stopped) {
        let _ = tokio::time::timeout(DRAIN_QUIET, writer).await;
    } else {
        writer.abort();
    }
    Ok(end)
}

impl Calls<'_> {
    /// Acts on one message of the node.
    fn take(&mut self, message: Bytes) -> Result<Word, CliError> {
        let (header, body) = frame::decode(message)?;
        match header {
            FromNode::Request(request) => self.start(request, body),
            FromNode::Cancel { id } => {
                // Aborting drops the call's future, which kills its process.
                if let Some(handle) = self.by_id.remove(&id) {
                    handle.abort();
                }
            }
            FromNode::Drain {} => return Ok(Word::Drain),
            FromNode::Drained {} => return Ok(Word::Drained),
            FromNode::Ready {} | FromNode::Unknown => {}
        }
        Ok(Word::Nothing)
    }

    fn start(&mut self, request: Request, body: Bytes) {
        let id = request.id;
        if request.stream.is_some() {
            return self.start_streamed(request);
        }
        let is_full = self.running.len() >= self.concurrency + REQUESTS_WAITING_MAX;
        let (handler, permits, answers) = (self.handler.clone(), self.permits.clone(), self.answers.clone());
        let is_verbose = self.session.globals.verbose > 0;
        if is_verbose {
            let caller = request.caller.as_deref().unwrap_or("?");
            self.session
                .detail(&format!("call {id} from {}, {} bytes", escape(caller), body.len()));
        }
        let task = async move {
            let outcome = if is_full {
                Err(Failure::new(503, "too many calls are waiting"))
            } else {
                match permits.acquire().await {
                    Ok(_permit) => handler.handle(&request, body).await,
                    Err(_) => Err(Failure::new(503, "the service is stopping")),
                }
            };
            let message = match outcome {
                Ok(answer) => frame::encode(
                    &ToNode::Answer {
                        id,
                        headers: answer.headers,
                    },
                    &answer.body,
                ),
                Err(Failure { code, reason }) => frame::encode(&ToNode::Error { id, code, reason }, &[]),
            };
            // Without a connection there is nobody to answer.
            if let Ok(message) = message {
                let _ = answers.send(message).await;
            }
            id
        };
        let handle = self.running.spawn(task);
        self.by_id.insert(id, handle);
    }

    /// A call whose bodies are of any size: they flow beside this connection.
    fn start_streamed(&mut self, request: Request) {
        let id = request.id;
        let (handler, permits, answers) = (self.handler.clone(), self.permits.clone(), self.answers.clone());
        let client = self.session.client();
        let task = async move {
            let outcome = match (permits.acquire().await, client) {
                (Ok(_permit), Ok(client)) => {
                    // Told at once: the answer that has begun must not end as if it were whole.
                    let fail = |failure: Failure| {
                        let answers = answers.clone();
                        async move {
                            let Failure { code, reason } = failure;
                            if let Ok(message) = frame::encode(&ToNode::Error { id, code, reason }, &[]) {
                                let _ = answers.send(message).await;
                            }
                        }
                    };
                    streamed::handle(&handler, &client, &request, fail).await
                }
                (_, Err(error)) => Err(error),
                (Err(_), _) => Ok(()),
            };
            // The node has told the caller what it knows; there is nobody else.
            drop(outcome);
            id
        };
        let handle = self.running.spawn(task);
        self.by_id.insert(id, handle);
    }

    fn forget(&mut self, ended: Result<u64, tokio::task::JoinError>) {
        match ended {
            Ok(id) => {
                self.by_id.remove(&id);
            }
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                let words = format!("a call ended in a fault of this program: {error}");
                self.session.out.say(&self.session.out.paint_talk(Tone::Bad, &words));
            }
        }
    }

    fn say_drain(&self) -> Result<(), CliError> {
        let message = frame::encode(&ToNode::Drain {}, &[])?;
        let answers = self.answers.clone();
        // Behind a full queue the word arrives later; requests until then are still answered.
        tokio::spawn(async move {
            let _ = answers.send(message).await;
        });
        Ok(())
    }
}

async fn write(mut sink: SplitSink<Socket, Message>, mut waiting: mpsc::Receiver<Bytes>) {
    while let Some(message) = waiting.recv().await {
        if sink.send(Message::Binary(message)).await.is_err() {
            // The reading side sees the same failure and reports it.
            return;
        }
    }
    let _ = sink.send(Message::Close(None)).await;
}

fn lost(error: tungstenite::Error) -> CliError {
    match error {
        tungstenite::Error::Capacity(_) | tungstenite::Error::Protocol(_) => {
            CliError::Lost(format!("bad message: {error}"))
        }
        other => CliError::Lost(other.to_string()),
    }
}

fn closed(frame: Option<&tungstenite::protocol::CloseFrame>) -> CliError {
    match frame
        .map(|frame| frame.reason.as_str())
        .filter(|reason| !reason.is_empty())
    {
        Some(reason) => CliError::Lost(format!("the node closed it: {}", escape(reason))),
        None => CliError::Lost("the node closed it".to_owned()),
    }
}

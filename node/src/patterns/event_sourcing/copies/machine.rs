//! What a group agreed upon, done to the streams of this node.

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::OwnedMutexGuard;
use weft_protocol::{
    Subject, Wire as _,
    consensus::GroupId,
    patterns::event_sourcing::{Ack, Append},
};

use super::command::{Command, DeadEntry, Outcome};
use crate::{
    consensus::{At, Machine, Mark},
    patterns::event_sourcing::{options::StreamError, schemas::SchemaChange, stream::Origin, streams::Streams},
};

/// The streams of one group on this node.
pub(in super::super) struct Keeper {
    group: GroupId,
    streams: Arc<Streams>,
    reached: Mutex<Reached>,
    /// Held by whoever applies; whether this is over.
    applying: Arc<tokio::sync::Mutex<bool>>,
    /// How often something was applied, since the group was opened here.
    turn: AtomicU64,
    /// Whether some streams may be of a later time than others: got from another member, while the log has not come so far yet.
    is_partial: AtomicBool,
    /// The same for whoever notes what is durable.
    marking: tokio::sync::Mutex<bool>,
}

#[derive(Default)]
struct Reached {
    mark: Option<Mark>,
    /// Streams to which something was appended since the last mark that is durable.
    touched: HashSet<Subject>,
}

impl Keeper {
    pub(super) fn new(group: GroupId, streams: Arc<Streams>, is_partial: bool) -> Arc<Self> {
        Arc::new(Keeper {
            group,
            streams,
            reached: Mutex::default(),
            applying: Arc::default(),
            turn: AtomicU64::new(0),
            is_partial: AtomicBool::new(is_partial),
            marking: tokio::sync::Mutex::default(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Reached> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything that was applied is durable, and notes up to where that is.
    pub(super) async fn keep_mark(&self) -> Result<(), StreamError> {
        let is_over = self.marking.lock().await;
        if *is_over {
            return Ok(());
        }
        let (mark, touched) = {
            let mut reached = self.lock();
            (reached.mark.take(), std::mem::take(&mut reached.touched))
        };
        let Some(mark) = mark else { return Ok(()) };
        let kept = async {
            for name in &touched {
                match self.streams.copy(self.group, name).await {
                    Ok(opened) => opened.stream.settle().await?,
                    Err(StreamError::NoStream(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            self.streams.put_mark(self.group, mark.clone()).await
        };
        let kept = kept.await;
        if kept.is_err() {
            let mut reached = self.lock();
            reached.touched.extend(touched);
            reached.mark.get_or_insert(mark);
        }
        kept
    }

    /// How often something was applied.
    pub(super) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }

    /// Has nothing applied while the guard is held; an error where something was since this turn.
    pub(super) async fn hold(&self, turn: u64) -> Result<OwnedMutexGuard<bool>, StreamError> {
        let held = Arc::clone(&self.applying).lock_owned().await;
        if *held {
            return Err(StreamError::Closed);
        }
        match self.turn() == turn {
            true => Ok(held),
            false => Err(StreamError::Again("the group's log goes on by itself".into())),
        }
    }

    pub(super) fn is_partial(&self) -> bool {
        self.is_partial.load(Ordering::Acquire)
    }

    pub(super) fn set_partial(&self, is_partial: bool) {
        self.is_partial.store(is_partial, Ordering::Release);
    }

    /// Applies and notes nothing any more; returns when nothing is being applied or noted.
    pub(super) async fn close(&self) {
        *self.applying.lock().await = true;
        *self.marking.lock().await = true;
    }

    async fn perform(&self, at: At, command: Command) -> Result<Outcome, StreamError> {
        let (streams, group) = (&self.streams, self.group);
        match command {
            Command::Create { name, options, at_ms } => {
                streams.create_copy(group, at.index, &name, options, at_ms).await?;
                Ok(Outcome::Done)
            }
            Command::Append {
                name,
                append,
                author,
                at_ms,
            } => {
                let opened = streams.copy_since(group, at.index, &name).await?;
                let origin = Origin::Group {
                    author,
                    at_ms,
                    entry: at.index,
                };
                // Most members have it on their disks already.
                let append = Append {
                    ack: Ack::Memory,
                    ..append
                };
                let appended = opened.stream.append(append, origin).await?;
                if !appended.is_duplicate {
                    self.lock().touched.insert(name);
                }
                Ok(Outcome::Appended(appended))
            }
            Command::Update { name, options } => {
                streams.copy_since(group, at.index, &name).await?;
                streams.update_copy(group, &name, options).await?;
                Ok(Outcome::Done)
            }
            Command::Delete(name) => {
                streams.copy_since(group, at.index, &name).await?;
                streams.delete_copy(group, &name).await?;
                Ok(Outcome::Done)
            }
            Command::Consumer {
                name,
                consumer,
                state,
                dead,
                term,
            } => {
                if term != at.term {
                    return Err(StreamError::Led(None));
                }
                let opened = streams.copy_since(group, at.index, &name).await?;
                let dead: Vec<_> = dead
                    .into_iter()
                    .map(|DeadEntry { position, letter }| (position, letter))
                    .collect();
                streams
                    .write_consumer(opened.stream.number, &consumer, state, &dead)
                    .await?;
                Ok(Outcome::Done)
            }
            Command::Schema { name, id, schema } => {
                let opened = streams.copy_since(group, at.index, &name).await?;
                let change = schema.map_or(SchemaChange::Remove(id), SchemaChange::Add);
                opened.stream.change_schemas(Some(at.index), change).await?;
                Ok(Outcome::Done)
            }
        }
    }
}

/// Whether it comes to the same at every member: what is wrong with the command, not with the disk.
fn is_everybodys(error: &StreamError) -> bool {
    !matches!(
        error,
        StreamError::Store(_)
            | StreamError::Corrupt(_)
            | StreamError::Again(_)
            | StreamError::Closed
            | StreamError::Mesh(_)
            | StreamError::AtOwner { .. }
    )
}

impl Machine for Keeper {
    async fn mark(&self) -> Result<Option<Mark>, io::Error> {
        let mark = self.streams.mark(self.group).await;
        mark.map_err(|error| io::Error::other(error.to_string()))
    }

    async fn apply(&self, at: At, command: Bytes) -> Result<Vec<u8>, io::Error> {
        let is_over = self.applying.lock().await;
        if *is_over {
            return Err(io::Error::other("the group is opened again"));
        }
        self.turn.fetch_add(1, Ordering::AcqRel);
        let outcome = match Command::from_bytes(&command) {
            Ok(command) => self.perform(at, command).await,
            // A leader of a later version may know more: what it means must not be passed over by some.
            Err(error) => return Err(io::Error::other(format!("an entry is not understood: {error}"))),
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) if is_everybodys(&error) => Outcome::Failed(error.to_failure()),
            Err(error) => return Err(io::Error::other(error.to_string())),
        };
        Ok(outcome.to_bytes())
    }

    fn reached(&self, mark: Mark) {
        self.lock().mark = Some(mark);
    }

    async fn install(&self, mark: Mark) -> Result<(), io::Error> {
        let is_over = self.marking.lock().await;
        if *is_over {
            return Err(io::Error::other("the group is opened again"));
        }
        // Whatever was to be noted was before this.
        self.lock().mark = None;
        let noted = self.streams.put_mark(self.group, mark).await;
        noted.map_err(|error| io::Error::other(error.to_string()))
    }
}

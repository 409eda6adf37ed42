//! Records handed out to clients that ask for them, and settled by them.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use weft_protocol::{
    Subject, Wire as _,
    patterns::event_sourcing::{
        Record,
        consumer::{ConsumerReply, ConsumerRequest, Delivery, Handed, SETTLE_MAX, Settlement, check_consumer_name},
    },
};

use super::{JetStream, Request, Which, config, events::message_of, lanes::Item};
use crate::{
    error::{ErrorKind, Kind as _},
    nats::{
        door::{Door, Scope},
        headers,
        outbox::{Outbox, Outgoing, Touched},
    },
    patterns::event_sourcing::StreamError,
};

/// What begins a request for records.
pub(super) const NEXT: &str = "$JS.API.CONSUMER.MSG.NEXT.";
/// Records asked of a stream at once.
const CHUNK_MAX: u32 = 256;
/// Records of one request.
const BATCH_MAX: u32 = 100_000;
/// It is looked this often whether the client still waits.
const LOOK: Duration = Duration::from_secs(5);
/// A request that says nothing of its end has one.
const EXPIRES_MAX: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked whether a client has read what it was sent.
const DRAINING: Duration = Duration::from_millis(100);
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
const REASON_BYTES_MAX: usize = 256;

/// A request for records, as clients write it; nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Pull {
    batch: u32,
    expires: u64,
    no_wait: bool,
    max_bytes: u64,
    idle_heartbeat: u64,
}

impl Default for Pull {
    fn default() -> Self {
        Pull {
            batch: 1,
            expires: 0,
            no_wait: false,
            max_bytes: 0,
            idle_heartbeat: 0,
        }
    }
}

impl Pull {
    /// Of nothing, a number, or an object.
    fn parse(payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload).ok()?.trim();
        let pull = match text.as_bytes() {
            [] => Pull::default(),
            [b'{', ..] => serde_json::from_str(text).ok()?,
            _ => Pull {
                batch: text.parse().ok()?,
                ..Pull::default()
            },
        };
        let batch = pull.batch.clamp(1, BATCH_MAX);
        Some(Pull { batch, ..pull })
    }
}

/// Whose records are asked for, or settled.
fn which(stream: &str, consumer: &str) -> Option<Which> {
    check_consumer_name(consumer).ok()?;
    Some((stream.parse::<Subject>().ok()?, consumer.to_owned()))
}

/// Hands out what is asked for, beside everything else.
pub(super) fn spawn(door: &Arc<Door>, request: Request, reply: String) {
    let door = Arc::clone(door);
    door.tasks.clone().spawn("nats-pull", async move {
        let rest = request.subject.get(NEXT.len()..).unwrap_or_default();
        let asked = rest.split_once('.').and_then(|(stream, name)| which(stream, name));
        match (asked, Pull::parse(&request.payload)) {
            // As nats-server says it: of three beats one must come in time.
            (Some(_), Some(pull)) if pull.idle_heartbeat > pull.expires / 2 => {
                say(&door, &reply, " 400 Bad Request - heartbeat value too large", &[]);
            }
            (Some(which), Some(pull)) => Pulling::run(&door, which, pull, reply, request.client).await,
            _ => say(&door, &reply, " 400 Bad Request", &[]),
        }
    });
}

/// A status on a client's inbox.
fn say(door: &Door, reply: &str, status: &str, pairs: &[(&str, &str)]) {
    door.deliver_answer(reply, &headers::block(status, pairs.iter().copied()), b"");
}

/// Records that are being handed out to one client.
struct Pulling<'a> {
    door: &'a Door,
    jetstream: &'a JetStream,
    which: Which,
    reply: String,
    client: Arc<Outbox>,
    left: u32,
    bytes_left: Option<u64>,
}

impl Pulling<'_> {
    async fn run(door: &Door, which: Which, pull: Pull, reply: String, client: Arc<Outbox>) {
        let Some(jetstream) = &door.jetstream else { return };
        let _permit = match Arc::clone(&jetstream.pulls).try_acquire_owned() {
            Ok(permit) if jetstream.counted(&which, |counted| counted.pulls) < super::PULLS_OF_ONE_MAX => permit,
            _ => return say(door, &reply, " 409 Exceeded MaxWaiting", &[]),
        };
        jetstream.counted(&which, |counted| counted.pulls += 1);
        let mut pulling = Pulling {
            door,
            jetstream,
            which,
            reply,
            client,
            left: pull.batch,
            bytes_left: (pull.max_bytes > 0).then_some(pull.max_bytes),
        };
        pulling.hand_out(pull).await;
        let counted = |counted: &mut super::Counted| counted.pulls = counted.pulls.saturating_sub(1);
        jetstream.counted(&pulling.which, counted);
    }

    async fn hand_out(&mut self, pull: Pull) {
        let mut said = Instant::now();
        let until = match (pull.no_wait, pull.expires) {
            // What has both takes what is there, and else waits.
            (true, 0) => said,
            (_, 0) => said + EXPIRES_MAX,
            (_, ns) => said + Duration::from_nanos(ns).min(EXPIRES_MAX),
        };
        let heartbeat = Duration::from_nanos(pull.idle_heartbeat);
        let heartbeat = (pull.idle_heartbeat > 0).then_some(heartbeat.max(HEARTBEAT_MIN));
        let mut was_there = false;
        while self.left > 0 {
            let now = Instant::now();
            let slice = until.saturating_duration_since(now).min(LOOK);
            let slice = heartbeat.map_or(slice, |beat| slice.min((said + beat).saturating_duration_since(now)));
            match self.chunk(slice).await {
                Ok(Some(0)) => {}
                Ok(Some(_)) => said = Instant::now(),
                Ok(None) => return,
                Err(error) => return self.fail(&error, was_there),
            }
            was_there = true;
            if self.left == 0 || !self.is_wanted() {
                return;
            }
            let now = Instant::now();
            if now >= until {
                let status = if pull.no_wait {
                    " 404 No Messages"
                } else {
                    " 408 Request Timeout"
                };
                return self.end(status);
            }
            if heartbeat.is_some_and(|beat| now >= said + beat) {
                said = now;
                say(self.door, &self.reply, " 100 Idle Heartbeat", &[]);
            }
        }
    }

    /// Whether the client is there, and listens.
    fn is_wanted(&self) -> bool {
        let matched = self.door.router.matching(&self.reply);
        !(self.client.cut.is_cancelled() || matched.plain.is_empty() && matched.groups.is_empty())
    }

    /// Hands out what is ready, or becomes so in time. How many that was; nothing: it is over.
    async fn chunk(&mut self, wait: Duration) -> Result<Option<u32>, StreamError> {
        // Of a client that counts bytes one comes after the other: what is too much goes back.
        let most = if self.bytes_left.is_some() { 1 } else { CHUNK_MAX };
        let request = ConsumerRequest::Next {
            name: self.which.1.clone(),
            count: self.left.min(most),
            wait_ms: wait.as_millis().try_into().unwrap_or(u32::MAX),
        };
        let ConsumerReply::Handed(deliveries) = self.jetstream.streams.consumer(&self.which.0, request).await? else {
            return Err(StreamError::Corrupt(
                "the owner of the stream answered something else".into(),
            ));
        };
        if deliveries.is_empty() {
            return Ok(Some(0));
        }
        let pending = self.behind().await;
        let count = deliveries.len();
        for (at, delivery) in deliveries.iter().enumerate() {
            let record = Record::from_bytes(&delivery.record.record)
                .map_err(|error| StreamError::Corrupt(format!("a record cannot be read: {error}")))?;
            let (subject, block) = message_of(&self.which.0, delivery.record.position, &record);
            let bytes = (subject.len() + block.len() + record.event.data.len()) as u64;
            if self.bytes_left.is_some_and(|left| left < bytes) {
                self.give_back(&deliveries[at..]).await;
                self.end(" 409 Message Size Exceeds MaxBytes");
                return Ok(None);
            }
            self.bytes_left = self.bytes_left.map(|left| left - bytes);
            let behind = pending + (count - at - 1) as u64;
            if self.deliver(delivery, &record, (&subject, &block), behind) == 0 {
                self.give_back(&deliveries[at..]).await;
                return Ok(None);
            }
            self.left -= 1;
        }
        // Others wait for the same word, and a connection that is gone gives none.
        while self.client.is_filling() && !self.client.cut.is_cancelled() {
            let _ = timeout(DRAINING, self.client.drained()).await;
        }
        Ok(Some(count as u32))
    }

    fn deliver(&self, delivery: &Delivery, record: &Record, (subject, block): (&str, &[u8]), behind: u64) -> u32 {
        let now_ms = self.door.mesh.trust().now_ms();
        let handed = self.jetstream.counted(&self.which, |counted| {
            counted.last_ms = Some(now_ms);
            counted.handed += 1;
            counted.handed
        });
        let (stream, consumer) = &self.which;
        let reply = format!(
            "{}{stream}.{consumer}.{}.{}.{handed}.{}.{behind}",
            super::ACK,
            delivery.delivery,
            delivery.record.position,
            u128::from(record.recorded_ms) * 1_000_000,
        );
        let message = Outgoing {
            subject,
            reply: Some(&reply),
            headers: block,
            payload: &record.event.data,
        };
        let matched = self.door.router.matching(&self.reply);
        self.door
            .deliver(&matched, &message, Scope::ALL, &mut Touched::default())
    }

    /// Records behind what was handed out, as the consumer's keeper says.
    async fn behind(&self) -> u64 {
        match self
            .jetstream
            .streams
            .consumer(&self.which.0, ConsumerRequest::List)
            .await
        {
            Ok(ConsumerReply::List(list)) => list
                .iter()
                .find(|one| one.name == self.which.1)
                .map_or(0, config::unhanded),
            _ => 0,
        }
    }

    /// Nobody got these: they are handed out again at once.
    async fn give_back(&self, deliveries: &[Delivery]) {
        let handed = deliveries.iter().map(|delivery| Handed {
            position: delivery.record.position,
            delivery: delivery.delivery,
        });
        let request = ConsumerRequest::Settle {
            name: self.which.1.clone(),
            handed: handed.collect(),
            settlement: Settlement::Unseen,
        };
        if let Err(error) = self.jetstream.streams.consumer(&self.which.0, request).await {
            tracing::debug!(stream = %self.which.0, %error, "records that nobody got are handed out again when their time is over");
        }
    }

    fn end(&self, status: &str) {
        let (left, bytes) = (self.left.to_string(), self.bytes_left.unwrap_or(0).to_string());
        let pairs = [
            ("Nats-Pending-Messages", left.as_str()),
            ("Nats-Pending-Bytes", bytes.as_str()),
        ];
        say(self.door, &self.reply, status, &pairs);
    }

    fn fail(&self, error: &StreamError, was_there: bool) {
        tracing::debug!(stream = %self.which.0, consumer = self.which.1, %error, "records cannot be handed out");
        match error.kind() {
            ErrorKind::NotFound if was_there => self.end(" 409 Consumer Deleted"),
            ErrorKind::NotFound => say(self.door, &self.reply, " 503", &[]),
            ErrorKind::Unreachable => self.end(" 409 Leadership Change"),
            _ => self.end(" 409 Server Shutdown"),
        }
    }
}

/// What a client says of a record that it was handed.
pub(super) struct Settling {
    handed: Handed,
    word: Word,
    reply: Option<String>,
    client: Arc<Outbox>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Settle(Settlement),
    /// It is done, and more is wanted.
    Next(Pull),
    Unknown,
}

impl Word {
    /// Of what stands in the message (ADR-13, `+ACK` and its like).
    fn of(payload: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Delay {
            delay: u64,
        }
        let Ok(text) = std::str::from_utf8(payload) else {
            return Word::Unknown;
        };
        let (word, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let reason = || {
            rest.chars()
                .filter(|c| !c.is_control())
                .take(REASON_BYTES_MAX / 4)
                .collect()
        };
        match word {
            "" | "+ACK" | "+OK" => Word::Settle(Settlement::Done),
            "-NAK" => {
                let delay = serde_json::from_str::<Delay>(rest).ok();
                Word::Settle(Settlement::Again {
                    pause_ms: delay.map(|delay| delay.delay.div_ceil(1_000_000)),
                    reason: String::new(),
                })
            }
            "+WPI" => Word::Settle(Settlement::Longer),
            "+TERM" => Word::Settle(Settlement::Dead { reason: reason() }),
            "+NXT" => Pull::parse(rest.as_bytes()).map_or(Word::Unknown, Word::Next),
            _ => Word::Unknown,
        }
    }
}

impl Settling {
    pub(super) fn new(handed: Handed, payload: &[u8], reply: Option<String>, client: Arc<Outbox>) -> Self {
        Settling {
            handed,
            word: Word::of(payload),
            reply,
            client,
        }
    }
}

/// Whose record is settled, and which: the subject of a settlement without its beginning.
pub(super) fn parse_ack(rest: &str) -> Option<(Which, Handed)> {
    let tokens: Vec<&str> = rest.split('.').collect();
    let [stream, consumer, delivery, position, ..] = *tokens.as_slice() else {
        return None;
    };
    if tokens.len() != 7 {
        return None;
    }
    let handed = Handed {
        position: position.parse().ok()?,
        delivery: delivery.parse().ok()?,
    };
    Some((which(stream, consumer)?, handed))
}

/// Settles what waits for a consumer, until nothing does.
pub(super) fn begin(door: &Arc<Door>, which: Which) {
    let door = Arc::clone(door);
    door.tasks.clone().spawn("nats-settle", async move {
        let Some(jetstream) = &door.jetstream else { return };
        while let Some(items) = jetstream.settling.take(&which) {
            let mut done: Vec<Item<Settling>> = Vec::new();
            for mut item in items {
                let is_done = item.work.word == Word::Settle(Settlement::Done);
                if !is_done || done.len() == SETTLE_MAX {
                    settle(&door, jetstream, &which, std::mem::take(&mut done), Settlement::Done).await;
                }
                match item.work.word.clone() {
                    Word::Settle(Settlement::Done) => done.push(item),
                    Word::Settle(settlement) => settle(&door, jetstream, &which, vec![item], settlement).await,
                    Word::Next(pull) => {
                        let (reply, client) = (item.work.reply.take(), Arc::clone(&item.work.client));
                        settle(&door, jetstream, &which, vec![item], Settlement::Done).await;
                        if let Some(reply) = reply {
                            let (door, which) = (Arc::clone(&door), which.clone());
                            door.tasks.clone().spawn("nats-pull", async move {
                                Pulling::run(&door, which, pull, reply, client).await;
                            });
                        }
                    }
                    Word::Unknown => tracing::debug!(stream = %which.0, "this says nothing of a record"),
                }
            }
            settle(&door, jetstream, &which, done, Settlement::Done).await;
        }
    });
}

/// Settles records that one word is said of. Who wants to know hears that it counted: each of those is asked for by itself, all at once.
async fn settle(door: &Door, jetstream: &JetStream, which: &Which, items: Vec<Item<Settling>>, settlement: Settlement) {
    let (asking, others): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| item.work.reply.is_some());
    settle_as(
        jetstream,
        which,
        others.iter().map(|item| item.work.handed).collect(),
        &settlement,
    )
    .await;
    let answers = asking.iter().map(|item| async {
        let settled = settle_as(jetstream, which, vec![item.work.handed], &settlement).await;
        // What was handed out again meanwhile comes again, and whoever waits for the answer waits in vain.
        if let Some(reply) = item.work.reply.as_deref().filter(|_| settled == 1) {
            door.deliver_answer(reply, b"", b"");
        }
    });
    join_all(answers).await;
}

/// How many of the records were settled.
async fn settle_as(jetstream: &JetStream, which: &Which, handed: Vec<Handed>, settlement: &Settlement) -> u64 {
    if handed.is_empty() {
        return 0;
    }
    let count = handed.len() as u64;
    let request = ConsumerRequest::Settle {
        name: which.1.clone(),
        handed,
        settlement: settlement.clone(),
    };
    let settled = match jetstream.streams.consumer(&which.0, request).await {
        Ok(ConsumerReply::Done(settled)) => settled,
        Ok(_) => 0,
        Err(error) => {
            tracing::debug!(stream = %which.0, consumer = which.1, %error, "records are not settled");
            return 0;
        }
    };
    if settled < count {
        tracing::debug!(stream = %which.0, consumer = which.1, late = count - settled, "records were settled too late: they were handed out again");
    }
    settled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_for_records_is_nothing_a_number_or_an_object() {
        let pull = |text: &str| Pull::parse(text.as_bytes());
        assert_eq!(pull(""), Some(Pull::default()));
        assert_eq!(pull("7").map(|pull| pull.batch), Some(7));
        let asked = pull(r#"{"batch":500000,"expires":1000,"no_wait":true,"group":null,"priority":3}"#).unwrap();
        assert_eq!((asked.batch, asked.expires, asked.no_wait), (BATCH_MAX, 1000, true));
        for wrong in ["x", "{", "-1", r#"{"batch":-1}"#] {
            assert_eq!(pull(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_clients_say_of_records() {
        let word = |text: &str| Word::of(text.as_bytes());
        for done in ["", "+ACK", "+OK"] {
            assert_eq!(word(done), Word::Settle(Settlement::Done), "{done}");
        }
        let again = |pause_ms| {
            let reason = String::new();
            Word::Settle(Settlement::Again { pause_ms, reason })
        };
        assert_eq!(
            (word("-NAK"), word(r#"-NAK {"delay":1500000}"#)),
            (again(None), again(Some(2)))
        );
        let reason = "no such customer".to_owned();
        assert_eq!(
            word("+TERM no such\r\n customer"),
            Word::Settle(Settlement::Dead { reason })
        );
        assert_eq!(
            word("+NXT 3"),
            Word::Next(Pull {
                batch: 3,
                ..Pull::default()
            })
        );
        assert_eq!((word("+NXT x"), word("thanks")), (Word::Unknown, Word::Unknown));
    }

    #[test]
    fn a_settlement_names_its_record() {
        let ((stream, consumer), handed) = parse_ack("ORDERS.billing.2.17.5.1790000000000000000.3").unwrap();
        assert_eq!((stream.as_str(), consumer.as_str()), ("ORDERS", "billing"));
        assert_eq!((handed.position, handed.delivery), (17, 2));
        for wrong in [
            "",
            "a.b.c",
            "ORDERS.billing.x.17.5.1.3",
            "ORDERS.bill/ing.2.17.5.1.3",
            "a.b.1.2.3.4.5.6",
        ] {
            assert!(parse_ack(wrong).is_none(), "{wrong}");
        }
    }
}

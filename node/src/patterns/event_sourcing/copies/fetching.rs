//! Getting what a group has from the member that leads it, where its log does not begin early enough any more.
//!
//! A stream of which there is a beginning here goes on where it ends: so a copy that was away for long, or was cut off while it was made, gets
//! what it lacks. One that begins later at the other member, because the records before are not kept, is made beside what is here, and takes its
//! place when it is there. Meanwhile this member holds no more than what the others have agreed upon; when it has everything up to the
//! leader's mark, it goes on from there by the log.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;
use weft_protocol::{
    PeerId, Subject, Wire as _,
    consensus::{Ballot, GroupId, GroupReply, GroupRequest, Mark},
    patterns::event_sourcing::Record,
};

use super::{
    AGREE_WITHIN, Copies, Kept, ask,
    handing::{Given, HeldStream, Wanted, Which},
    of_group, peer_of,
};
use crate::{
    consensus::Voter,
    patterns::event_sourcing::{
        options::StreamError,
        shelf::{CopyOf, Kind},
        stream::Stream,
    },
    store::{Frontier, Log},
};

/// What there is of a stream besides its records, where they begin later than the stream.
const BESIDES: [Kind; 4] = [Kind::Blocks, Kind::Terms, Kind::Ids, Kind::Producers];
/// What there is of its consumers.
const CONSUMERS: [Kind; 2] = [Kind::Consumers, Kind::Dead];
/// Streams that are got at once.
const STREAMS_AT_ONCE: usize = 8;
/// Records are appended in so many bytes at once where a copy is made anew.
const APPEND_BYTES: usize = 1 << 20;

/// How far this member is with what it gets.
#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    UnderWay,
    /// It has everything up to here.
    Done(Mark),
    Failed(String),
}

/// What a member gets of a group besides its log.
#[derive(Debug, Default)]
pub(super) struct Fetch {
    state: Mutex<State>,
    /// When the log has come so far, all streams are of one time again.
    whole_at: Mutex<Option<u64>>,
    /// Held while something is got.
    working: tokio::sync::Mutex<()>,
    over: CancellationToken,
}

fn unlocked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fetch {
    /// Gets nothing any more; returns when nothing is being got.
    pub(super) async fn stop(&self) {
        self.over.cancel();
        drop(self.working.lock().await);
    }
}

impl Copies {
    /// Gets from the leader what came of its log up to a mark, and goes on from there.
    pub(super) async fn catch_up(
        self: &Arc<Self>,
        from: Voter,
        id: GroupId,
        kept: &Arc<Kept>,
        ballot: Ballot,
        mark: Mark,
    ) -> Result<GroupReply, StreamError> {
        let leader = Voter(ballot.reign.leader);
        let donor = peer_of(from).filter(|_| from == leader);
        let donor = donor.ok_or_else(|| StreamError::Invalid("only who leads says that".into()))?;
        if ballot.reign.term < kept.group.leader().1 {
            return Err(StreamError::Again("there is a leader of a later term".into()));
        }
        let is_known = kept.group.applied().is_some_and(|applied| applied >= mark.last.index);
        if !is_known {
            let mut state = unlocked(&kept.fetch.state);
            match std::mem::take(&mut *state) {
                State::UnderWay => {
                    *state = State::UnderWay;
                    return Ok(GroupReply::Fetching);
                }
                State::Failed(reason) => return Err(StreamError::Again(reason)),
                State::Done(at) if at.last.index >= mark.last.index => *state = State::Done(at),
                State::Idle | State::Done(_) => {
                    *state = State::UnderWay;
                    drop(state);
                    self.begin_fetch(id, Arc::clone(kept), donor, mark);
                    return Ok(GroupReply::Fetching);
                }
            }
        }
        let follows = kept.group.install(ballot, mark).await.map_err(of_group)?;
        *unlocked(&kept.fetch.state) = State::Idle;
        Ok(GroupReply::Installed(follows))
    }

    fn begin_fetch(self: &Arc<Self>, id: GroupId, kept: Arc<Kept>, donor: PeerId, mark: Mark) {
        let copies = Arc::clone(self);
        self.streams.tasks.spawn("group-fetch", async move {
            let working = kept.fetch.working.lock().await;
            tracing::info!(group = %id, from = %donor, "copies are got from the leader: its log begins later than they end");
            let fetching = Fetching {
                copies: &copies,
                kept: &kept,
                id,
                donor,
                turn: kept.keeper.turn(),
            };
            let state = match fetching.all(&mark).await {
                Ok(()) => State::Done(mark),
                Err(error) => {
                    tracing::info!(group = %id, from = %donor, %error, "copies are not got from the leader yet");
                    State::Failed(error.to_string())
                }
            };
            *unlocked(&kept.fetch.state) = state;
            drop(working);
        });
    }

    /// Whether all that is here of a group's streams is of one time.
    pub(in crate::patterns::event_sourcing) fn is_whole(&self, id: GroupId) -> bool {
        self.kept(id).is_ok_and(|kept| !kept.keeper.is_partial())
    }

    /// Notes that all streams are of one time again, when they are. Called once in a while.
    pub(super) async fn note_whole(&self, id: GroupId, kept: &Kept) -> Result<(), StreamError> {
        if !kept.keeper.is_partial() || matches!(*unlocked(&kept.fetch.state), State::UnderWay) {
            return Ok(());
        }
        let known = *unlocked(&kept.fetch.whole_at);
        let whole_at = match (known, kept.group.leader().0) {
            (Some(known), _) => Some(known),
            (None, Some(leader)) if leader == self.local() => Some(self.applied(kept).await?),
            (None, leader) => match leader.and_then(peer_of) {
                Some(leader) => match fetch(self, leader, id, Wanted::Applied).await? {
                    Given::Applied(applied) => Some(applied),
                    _ => return Err(other()),
                },
                None => None,
            },
        };
        *unlocked(&kept.fetch.whole_at) = whole_at;
        if whole_at.is_some() && kept.group.applied() >= whole_at {
            self.streams.put_partial(id, false).await?;
            kept.keeper.set_partial(false);
        }
        Ok(())
    }
}

fn other() -> StreamError {
    StreamError::Corrupt("a member handed over something else".into())
}

async fn fetch(copies: &Copies, from: PeerId, id: GroupId, wanted: Wanted) -> Result<Given, StreamError> {
    let request = GroupRequest::Fetch(wanted.to_checked_bytes()?);
    match ask(copies.mesh(), from, id, request, AGREE_WITHIN).await? {
        GroupReply::Fetched(given) => Ok(Given::from_bytes(&given)?),
        GroupReply::Refused(detail) => Err(StreamError::Busy(detail)),
        _ => Err(other()),
    }
}

/// One time of getting what another member has.
struct Fetching<'a> {
    copies: &'a Copies,
    kept: &'a Kept,
    id: GroupId,
    donor: PeerId,
    /// How often something was applied before.
    turn: u64,
}

/// Where the records of a stream begin and end at the other member.
struct Bounds {
    beginning: Frontier,
    version: u64,
}

impl Fetching<'_> {
    async fn fetch(&self, wanted: Wanted) -> Result<Given, StreamError> {
        tokio::select! {
            biased;
            () = self.kept.fetch.over.cancelled() => Err(StreamError::Closed),
            given = fetch(self.copies, self.donor, self.id, wanted) => given,
        }
    }

    /// While this is held nothing is applied. An error where something was since this began: then the log goes on by itself, and what the other
    /// member has may be of an earlier time than what is here.
    async fn hold(&self) -> Result<impl Drop, StreamError> {
        self.kept.keeper.hold(self.turn).await
    }

    async fn all(&self, mark: &Mark) -> Result<(), StreamError> {
        let streams = &self.copies.streams;
        *unlocked(&self.kept.fetch.whole_at) = None;
        self.kept.keeper.set_partial(true);
        streams.put_partial(self.id, true).await?;
        let held = self.streams().await?;
        for (copy, _) in streams.copies_of(self.id) {
            let is_older = |held: &HeldStream| held.which.entry <= copy.entry;
            if copy.entry <= mark.last.index && !held.get(&copy.name).is_some_and(is_older) {
                let _held = self.hold().await?;
                streams.delete_copy(self.id, &copy.name).await?;
            }
        }
        let failed = Mutex::new(None);
        let stream = async |held: HeldStream| {
            if unlocked(&failed).is_some() {
                return;
            }
            let got = match self.stream(&held).await {
                Err(StreamError::NoStream(_) | StreamError::Gone(_)) => self.gone(&held.which).await,
                got => got,
            };
            if let Err(error) = got {
                unlocked(&failed).get_or_insert(error);
            }
        };
        // Where one fails the others come to their own end: each cleans up behind itself.
        let held = stream::iter(held.into_values());
        held.for_each_concurrent(STREAMS_AT_ONCE, stream).await;
        failed
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .map_or(Ok(()), Err)
    }

    /// A stream was deleted meanwhile, as the log will say. Until then it is better not there than half there.
    async fn gone(&self, which: &Which) -> Result<(), StreamError> {
        let streams = &self.copies.streams;
        let _held = self.hold().await?;
        let known = streams.copy_facts(self.id, &which.name)?;
        match known.and_then(|known| known.copy) {
            Some(copy) if copy.entry == which.entry => streams.delete_copy(self.id, &which.name).await,
            _ => Ok(()),
        }
    }

    async fn streams(&self) -> Result<BTreeMap<Subject, HeldStream>, StreamError> {
        let (mut held, mut after) = (BTreeMap::new(), None);
        loop {
            let Given::Streams(page) = self.fetch(Wanted::Streams(after)).await? else {
                return Err(other());
            };
            let Some(last) = page.last() else { return Ok(held) };
            after = Some(last.which.name.clone());
            let before = held.len();
            held.extend(page.into_iter().map(|held| (held.which.name.clone(), held)));
            if held.len() == before {
                // It would never end.
                return Err(other());
            }
        }
    }

    async fn stream(&self, held: &HeldStream) -> Result<(), StreamError> {
        let streams = &self.copies.streams;
        let name = &held.which.name;
        let known = streams.copy_facts(self.id, name)?;
        let bounds = self.bounds(&held.which).await?;
        let first = bounds.beginning.count();
        match known {
            // What is here is of a later time, by the log.
            Some(known) if known.copy.as_ref().is_some_and(|copy| copy.entry > held.which.entry) => return Ok(()),
            Some(_) if streams.copy(self.id, name).await?.stream.version() < first => {
                return self.anew(held, bounds).await;
            }
            Some(known) if known.options == held.options => {}
            Some(_) => {
                let _held = self.hold().await?;
                streams.update_copy(self.id, name, held.options.clone()).await?;
            }
            None if first > 0 => return self.anew(held, bounds).await,
            None => {
                let (entry, options) = (held.which.entry, held.options.clone());
                let _held = self.hold().await?;
                streams
                    .create_copy(self.id, entry, name, options, held.created_ms)
                    .await?;
            }
        }
        let stream = streams.copy(self.id, name).await?.stream;
        // Before the records, so that none is let go of that a consumer needs.
        for kind in CONSUMERS {
            self.pairs(&held.which, kind, stream.number, true).await?;
        }
        self.pairs(&held.which, Kind::Schemas, stream.number, true).await?;
        stream.forget_schemas().await;
        self.records(&held.which, &stream, bounds.version).await
    }

    async fn bounds(&self, of: &Which) -> Result<Bounds, StreamError> {
        let Given::Bounds { first, peaks, version } = self.fetch(Wanted::Bounds(of.clone())).await? else {
            return Err(other());
        };
        let peaks = peaks.iter().map(|peak| peak.as_slice().try_into().ok());
        let peaks: Option<Vec<[u8; 32]>> = peaks.collect();
        let beginning = peaks.and_then(|peaks| Frontier::from_peaks(first, peaks));
        match beginning {
            Some(beginning) if first <= version => Ok(Bounds { beginning, version }),
            _ => Err(other()),
        }
    }

    async fn pairs(&self, of: &Which, kind: Kind, number: u64, is_shown: bool) -> Result<(), StreamError> {
        let mut after = None;
        loop {
            let wanted = Wanted::Pairs {
                of: of.clone(),
                kind,
                after: after.clone(),
            };
            let Given::Pairs { pairs, is_all } = self.fetch(wanted).await? else {
                return Err(other());
            };
            let is_rising = pairs.is_sorted_by(|(one, _), (next, _)| one < next);
            let first = pairs.first().map(|(first, _)| first);
            if !is_rising || first.is_some_and(|first| after.as_ref().is_some_and(|after| first <= after)) {
                return Err(other());
            }
            let last = pairs.last().map(|(last, _)| last.clone());
            let pairs = pairs
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect();
            let held = match is_shown {
                true => Some(self.hold().await?),
                false => None,
            };
            let before = after.as_ref().map(|after| after.as_slice());
            self.copies.streams.mirror(number, kind, before, pairs, is_all).await?;
            drop(held);
            match last {
                Some(last) if !is_all => after = Some(last),
                _ if is_all => return Ok(()),
                _ => return Err(other()),
            }
        }
    }

    async fn page(&self, of: &Which, from: u64, until: u64) -> Result<Vec<Bytes>, StreamError> {
        let wanted = Wanted::Records {
            of: of.clone(),
            from,
            until,
        };
        match self.fetch(wanted).await? {
            Given::Records(page) if !page.is_empty() && page.len() as u64 <= until - from => {
                Ok(page.into_iter().map(|record| Vec::from(record).into()).collect())
            }
            _ => Err(other()),
        }
    }

    /// Goes on with a stream where it ends here.
    async fn records(&self, of: &Which, stream: &Stream, until: u64) -> Result<(), StreamError> {
        // What the log has brought is on the disk.
        stream.settle().await?;
        let taken = self.take(of, stream, until).await;
        if taken.is_err()
            && let Ok(_held) = self.hold().await
        {
            // Nothing was applied meanwhile, so it is only what was got here that may not have arrived: it is got again.
            stream.recover().await;
        }
        taken
    }

    async fn take(&self, of: &Which, stream: &Stream, until: u64) -> Result<(), StreamError> {
        let mut next = stream.version();
        let (mut first, mut pending) = (next, Vec::new());
        while next < until {
            let page = self.page(of, next, until).await?;
            next += page.len() as u64;
            pending.extend(page);
            let whole = match next < until {
                true => whole_entries(&pending)?,
                false => pending.len(),
            };
            let taken: Vec<Bytes> = pending.drain(..whole).collect();
            let held = self.hold().await?;
            stream.take_in(first, taken).await?;
            drop(held);
            first += whole as u64;
        }
        stream.settle().await
    }

    /// Makes a stream anew that begins later than what is here ends.
    async fn anew(&self, held: &HeldStream, bounds: Bounds) -> Result<(), StreamError> {
        let streams = &self.copies.streams;
        let copy = CopyOf {
            group: self.id,
            entry: held.which.entry,
            name: held.which.name.clone(),
        };
        let begun = streams.begin_copy(copy, held.options.clone(), held.created_ms, bounds.beginning);
        let (hidden, log) = begun.await?;
        let filled = async {
            for kind in BESIDES.into_iter().chain(CONSUMERS).chain([Kind::Schemas]) {
                self.pairs(&held.which, kind, hidden.facts.number, false).await?;
            }
            // All records that the index knows of.
            let until = self.bounds(&held.which).await?.version;
            self.fill(&held.which, &log, until).await?;
            let _held = self.hold().await?;
            streams.end_copy(&hidden).await
        };
        let filled = filled.await;
        if filled.is_err() {
            drop(log);
            streams.give_up_import(&hidden).await;
        }
        filled
    }

    async fn fill(&self, of: &Which, log: &Log, until: u64) -> Result<(), StreamError> {
        let (mut batch, mut bytes, mut next) = (Vec::new(), 0, log.next_seq());
        while next < until {
            let page = self.page(of, next, until).await?;
            next += page.len() as u64;
            for record in &page {
                Record::from_bytes(record)?;
                bytes += record.len();
            }
            batch.extend(page);
            if bytes >= APPEND_BYTES {
                log.append(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
        }
        log.append(batch).await?;
        Ok(())
    }
}

/// How many of these records come from entries of the log of which none is missing: the last entry may go on.
fn whole_entries(records: &[Bytes]) -> Result<usize, StreamError> {
    let entry = |record: &Bytes| Ok::<_, StreamError>(Record::from_bytes(record)?.entry);
    let Some(last) = records.last() else { return Ok(0) };
    let last = entry(last)?;
    for (at, record) in records.iter().enumerate().rev() {
        if entry(record)? != last {
            return Ok(at + 1);
        }
    }
    Ok(0)
}

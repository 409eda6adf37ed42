//! Reading: what was recorded, and then what is recorded, without a gap between.

use std::sync::Arc;

use tokio::sync::watch;
use weft_protocol::patterns::event_sourcing::{From, Query, READ_RECORDS_MAX, ReadRequest};

use super::{
    index::Terms,
    options::StreamError,
    stream::{Kept, Stream},
};

/// Pages without a record that is meant, after which the index is asked where the next one is.
const IN_VAIN: usize = 1;
/// Of so many last records each is searched for by itself.
const SEARCHED_MAX: u64 = 16;

/// What comes next.
#[derive(Debug, Clone)]
pub(super) enum Page {
    /// Records that are meant.
    Records(Vec<Kept>),
    /// Everything up to this position was read; what comes next is live.
    CaughtUp(u64),
    /// There is no more.
    End,
}

/// Reads a stream from somewhere on.
pub(super) struct Reader {
    stream: Arc<Stream>,
    version: watch::Receiver<u64>,
    query: Query,
    terms: Option<Terms>,
    follow: bool,
    is_upcast: bool,
    /// How many more may be given.
    left: u64,
    /// The index of the next record.
    next: u64,
    in_vain: usize,
    /// Whether it was said that everything was read.
    is_told: bool,
}

impl Reader {
    pub(super) async fn new(stream: Arc<Stream>, request: ReadRequest) -> Result<Self, StreamError> {
        request.query.check()?;
        let version = stream.watch();
        let terms = Terms::of(&request.query);
        let next = match (request.from, &terms) {
            (From::Last(count), Some(terms)) if count <= SEARCHED_MAX => last_found(&stream, terms, count).await?,
            (From::Last(count), Some(_)) => last_matching(&stream, &request.query, count).await?,
            (from, _) => stream.begin(from).await?,
        };
        Ok(Reader {
            stream,
            version,
            terms,
            query: request.query,
            follow: request.follow,
            is_upcast: request.is_upcast == Some(true),
            left: request.limit.unwrap_or(u64::MAX),
            next,
            in_vain: 0,
            is_told: false,
        })
    }

    /// What comes next. Who does not follow gets [`Page::End`] behind the last record.
    ///
    /// Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Page, StreamError> {
        loop {
            if self.left == 0 {
                return Ok(Page::End);
            }
            let version = *self.version.borrow_and_update();
            self.skip().await?;
            if self.next >= version {
                if !self.follow {
                    return Ok(Page::End);
                }
                if !self.is_told {
                    self.is_told = true;
                    return Ok(Page::CaughtUp(version));
                }
                self.stream.grown(&mut self.version).await?;
                continue;
            }
            let page = self.read().await?;
            if !page.is_empty() {
                return Ok(Page::Records(page));
            }
        }
    }

    /// Passes over what the index says is not meant, and what is not kept any more.
    async fn skip(&mut self) -> Result<(), StreamError> {
        self.next = self.next.max(self.stream.first() - 1);
        let Some(terms) = self.terms.as_ref().filter(|_| self.in_vain > IN_VAIN) else {
            return Ok(());
        };
        self.in_vain = 0;
        let end = self.stream.version();
        self.next = match self.stream.find(terms, self.next).await? {
            Some(index) => index.max(self.next),
            None => end.max(self.next),
        };
        Ok(())
    }

    async fn read(&mut self) -> Result<Vec<Kept>, StreamError> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(READ_RECORDS_MAX);
        let page = match &self.terms {
            None => self.stream.read(self.next, most).await?,
            Some(_) => self.stream.read(self.next, READ_RECORDS_MAX).await?,
        };
        let Some(last) = page.last() else {
            return Ok(page);
        };
        let end = last.position;
        let mut meant = Vec::new();
        for kept in page {
            if self.terms.is_some() && !self.query.matches(&kept.record()?.event) {
                continue;
            }
            meant.push(kept);
            if meant.len() == most {
                break;
            }
        }
        self.next = match meant.last() {
            Some(last) if meant.len() == most => last.position,
            _ => end,
        };
        self.in_vain = if meant.is_empty() { self.in_vain + 1 } else { 0 };
        self.left -= meant.len() as u64;
        if !self.is_upcast {
            return Ok(meant);
        }
        let schemas = self.stream.schemas().await?;
        meant.into_iter().map(|kept| schemas.upcast(kept)).collect()
    }
}

/// Where the so-many-th last record that is meant is, or the first that is kept when there are fewer. Searched for by halves in the index, which
/// says for any place what is meant next: so it does not matter how long ago it was.
async fn last_found(stream: &Stream, terms: &Terms, count: u64) -> Result<u64, StreamError> {
    let (first, mut end) = (stream.first() - 1, stream.version());
    for _ in 0..count {
        let next_in = async |from: u64| Ok::<_, StreamError>(stream.find(terms, from).await?.filter(|at| *at < end));
        let Some(mut last) = next_in(first).await? else {
            return Ok(first);
        };
        // Something is meant at `last`, and nothing from `behind` on.
        let mut behind = end;
        while last + 1 < behind {
            let middle = last + (behind - last) / 2;
            match next_in(middle).await? {
                Some(found) => last = found,
                None => behind = middle,
            }
        }
        end = last;
    }
    Ok(end)
}

/// Where the so-many-th last record that is meant is. Found backwards, a block at a time.
async fn last_matching(stream: &Arc<Stream>, query: &Query, count: u64) -> Result<u64, StreamError> {
    const STEP: u64 = 256;
    let (first, mut end) = (stream.first() - 1, stream.version());
    let mut left = count;
    while left > 0 && end > first {
        let begin = end.saturating_sub(STEP).max(first);
        let mut meant = Vec::new();
        let mut next = begin;
        while next < end {
            let page = stream.read(next, (end - next) as usize).await?;
            let Some(last) = page.last() else { break };
            next = last.position;
            for kept in &page {
                if query.matches(&kept.record()?.event) {
                    meant.push(kept.position - 1);
                }
            }
        }
        if meant.len() as u64 >= left {
            return Ok(meant[meant.len() - left as usize]);
        }
        left -= meant.len() as u64;
        end = begin;
    }
    Ok(if count == 0 { stream.version() } else { first })
}

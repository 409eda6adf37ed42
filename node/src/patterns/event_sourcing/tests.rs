//! One stream on a disk in memory, against a model and against a disk that fails; and streams of real nodes.

mod copies;
mod faults;
mod mesh;
mod model;
mod schemas;
mod shortened;

use std::{path::Path, sync::Arc};

use weft_protocol::{
    Subject,
    patterns::event_sourcing::{Append, Appended, Event, From, Query, QueryItem, ReadRequest},
};

use super::{
    options::{StreamError, StreamOptions},
    read::{Page, Reader},
    shelf::Shelf,
    stream::{Kept, Origin, Stream},
};
use crate::{
    platform::{Platform as _, disk::MemoryDisk},
    store::{Store, StoreOptions},
    testing::TestPlatform,
};

/// Appended by this node itself.
const HERE: Origin = Origin::Member(None);

/// A stream on a disk of its own, which outlives it.
struct Place {
    disk: MemoryDisk,
    platform: Arc<TestPlatform>,
}

impl Place {
    fn new() -> Self {
        Place {
            disk: MemoryDisk::new(),
            platform: TestPlatform::new(),
        }
    }

    async fn store(&self) -> Result<Store, crate::store::StoreError> {
        let options = StoreOptions {
            segment_bytes: 16 << 10,
            reserve_bytes: 0,
            ahead_bytes: 4 << 10,
            ..StoreOptions::default()
        };
        Store::open(Arc::new(self.disk.clone()), Path::new("/weft"), options).await
    }

    /// Opens it, or makes it.
    async fn open(&self) -> Result<(Store, Arc<Stream>), StreamError> {
        self.open_with(StreamOptions::default()).await
    }

    async fn open_with(&self, options: StreamOptions) -> Result<(Store, Arc<Stream>), StreamError> {
        let store = self.store().await?;
        let shelf = Shelf::new(store.keyspace("event_sourcing"));
        let name: Subject = "orders".parse().unwrap();
        let known = shelf.streams().await?.into_iter().find(|(known, _)| *known == name);
        let facts = match known {
            Some((_, facts)) => facts,
            None => shelf.create(&name, options, 1, None).await?,
        };
        let log = store.log("stream.00000001").await?;
        Ok((store, Stream::new(name, facts, log, shelf, self.platform.clock())))
    }
}

fn event(kind: &str, tags: &[&str], data: impl Into<Vec<u8>>) -> Event {
    Event {
        tags: tags.iter().map(ToString::to_string).collect(),
        ..Event::new(kind, data)
    }
}

fn append_of(events: Vec<Event>) -> Append {
    Append {
        events,
        ..Append::default()
    }
}

async fn append(stream: &Stream, events: Vec<Event>) -> Result<Appended, StreamError> {
    stream.append(append_of(events), HERE).await
}

fn query(items: &[(&[&str], &[&str])]) -> Query {
    let list = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    let item = |(types, tags): &(&[&str], &[&str])| QueryItem {
        types: list(types),
        tags: list(tags),
    };
    Query {
        items: items.iter().map(item).collect(),
    }
}

async fn read_all(stream: &Arc<Stream>, from: From, query: Query, limit: Option<u64>) -> Vec<Kept> {
    let request = ReadRequest {
        from,
        query,
        follow: false,
        limit,
        is_upcast: None,
    };
    let mut reader = Reader::new(Arc::clone(stream), request).await.unwrap();
    let mut all = Vec::new();
    loop {
        match reader.next().await.unwrap() {
            Page::Records(records) => all.extend(records),
            Page::CaughtUp(_) => {}
            Page::End => return all,
        }
    }
}

fn positions(kept: &[Kept]) -> Vec<u64> {
    kept.iter().map(|kept| kept.position).collect()
}

async fn write_blocks(stream: &Stream) {
    while stream.write_block().await.unwrap() {}
}

//! Nodes that publish, fetch, lie and break off; and what lies on the disk.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::AsyncWriteExt as _;
use weft_protocol::{
    Subject,
    limits::{PUBLISH_BODY_BYTES_MAX, STREAM_PART_BYTES_MAX},
    patterns::blobs::{BlobId, BlobMessage, DATAREF, GROUP_BYTES, GroupHash, Reference, hash_group},
};

use super::{
    shelf::{Parts, Shelf},
    *,
};
use crate::{
    error::{ErrorKind, Kind as _},
    mesh::{self, InboundStream},
    node::Node,
    patterns::{
        body::{BodyReader, body},
        pub_sub::{Delivery, PublishOptions},
    },
    platform::Platform as _,
    store::{Store, StoreOptions},
    testing::{TestPlatform, address, key, member, mesh_config, peers, start},
    trust::MeshKind,
};

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

fn content(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|at| ((at + seed) * 31 % 251) as u8).collect()
}

fn subject(text: &str) -> Subject {
    text.parse().unwrap()
}

fn hashes(content: &[u8]) -> Vec<GroupHash> {
    let groups: Vec<&[u8]> = content.chunks(GROUP_BYTES).collect();
    let hash = |(index, data): (usize, &&[u8])| hash_group(index, groups.len(), data);
    groups.iter().enumerate().map(hash).collect()
}

async fn read(mut blob: Content) -> Result<Vec<u8>, BlobError> {
    let mut all = Vec::new();
    while let Some(part) = blob.next().await? {
        all.extend_from_slice(&part);
    }
    Ok(all)
}

async fn node(seed: u8, bootstrap: Option<&Node>) -> Node {
    let others = bootstrap.map(address).into_iter().collect();
    let builder = Node::builder().pattern(PubSub).pattern(Blobs::default());
    let found = bootstrap.is_none().then_some(MeshKind::Open);
    let node = start(
        builder,
        seed,
        mesh_config(&format!("node-{seed}"), others, "tcp"),
        found,
    )
    .await;
    member(&node).await;
    node
}

fn blobs(node: &Node) -> BlobsHandle {
    node.handle::<Blobs>().unwrap()
}

#[tokio::test]
async fn a_message_of_any_size_arrives_and_who_has_fetched_it_gives_it_on() {
    let a = node(1, None).await;
    let b = node(2, Some(&a)).await;
    let c = node(3, Some(&a)).await;
    peers(&a, 2).await;
    peers(&c, 2).await;
    let mut subscription = b
        .handle::<PubSub>()
        .unwrap()
        .subscribe("cameras.*".parse().unwrap(), None);
    let picture = content(5 * MIB + 17, 0);
    let (receipt, reference) = blobs(&a)
        .publish(
            &subject("cameras.7"),
            BodyReader::of(picture.clone()),
            PublishOptions::default(),
        )
        .await
        .unwrap();
    let reference = reference.unwrap();
    assert_eq!(reference.id, BlobId::of_groups(&hashes(&picture)).unwrap());
    let received = loop {
        match tokio::time::timeout(PATIENCE, subscription.next()).await.unwrap() {
            Some(Delivery::Message(received)) => break received,
            other => assert!(other.is_some(), "it ended"),
        }
    };
    assert_eq!(received.id(), receipt.id);
    assert!(received.data().is_empty());
    let told: Reference = received.attributes().extension(DATAREF).unwrap().parse().unwrap();
    assert_eq!(told, reference);
    let fetched = blobs(&b).fetch(&told).await.unwrap();
    assert!(read(fetched).await.unwrap() == picture);
    // From here on, its publisher is not needed.
    a.stop().await;
    let fetched = tokio::time::timeout(PATIENCE, blobs(&c).fetch(&told)).await.unwrap();
    assert!(read(fetched.unwrap()).await.unwrap() == picture);
    // A part of it, across the edge of a group.
    let (from, end) = (MIB as u64 - 5, 2 * MIB as u64 + 5);
    let part = blobs(&c).read(&told.id).await.unwrap().only(from, end);
    assert!(read(part).await.unwrap() == picture[from as usize..end as usize]);
}

#[tokio::test]
async fn what_fits_into_a_message_is_in_it() {
    let a = node(1, None).await;
    let mut subscription = a.handle::<PubSub>().unwrap().subscribe(">".parse().unwrap(), None);
    for (bytes, is_blob) in [
        (0, false),
        (PUBLISH_BODY_BYTES_MAX, false),
        (PUBLISH_BODY_BYTES_MAX + 1, true),
    ] {
        let data = content(bytes, 1);
        let (_, reference) = blobs(&a)
            .publish(&subject("x"), BodyReader::of(data.clone()), PublishOptions::default())
            .await
            .unwrap();
        assert_eq!(reference.is_some(), is_blob, "{bytes}");
        let Some(Delivery::Message(received)) = subscription.next().await else {
            panic!("no message");
        };
        match reference {
            None => assert!(received.data() == data),
            Some(reference) => {
                let blob = blobs(&a).fetch(&reference).await.unwrap();
                assert!(read(blob).await.unwrap() == data);
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_published_and_leaves_nothing() {
    let a = node(1, None).await;
    let mut wanted = a.handle::<PubSub>().unwrap().subscribe(">".parse().unwrap(), None);
    let (mut writer, reader) = body();
    let (handle, x) = (blobs(&a), subject("x"));
    let publishing = handle.publish(&x, reader, PublishOptions::default());
    let writing = async move { writer.send(Bytes::from(content(6 * MIB, 2))).await };
    let (outcome, written) = tokio::join!(publishing, writing);
    written.unwrap();
    assert!(matches!(outcome, Err(BlobError::Broken(_))));
    assert!(blobs(&a).list().is_empty());
    assert!(wanted.try_next().is_none());
}

/// How a member gives a blob.
#[derive(Debug, Clone, Copy)]
enum Script {
    Good,
    WrongHashes,
    /// The group at this index is another.
    WrongGroup(usize),
    /// It breaks off after so many groups.
    StopsAfter(usize),
    /// It says that it is longer than it is.
    WrongLength,
    /// Its hashes never end.
    EndlessHashes,
}

/// A member that gives one blob in its own way, and notes from which group on it was asked.
struct Scripted {
    content: Arc<Vec<u8>>,
    script: Script,
    asked: Arc<Mutex<Vec<u32>>>,
}

impl Pattern for Scripted {
    const ID: &'static str = PATTERN_ID;
    type Handle = ();

    async fn start(self, context: Context) -> Result<(), NodeError> {
        let mut doors = context.doors;
        let tasks = context.tasks.child();
        context.tasks.spawn("scripted", async move {
            while let Some(inbound) = doors.streams.recv().await {
                let (content, script, asked) = (Arc::clone(&self.content), self.script, Arc::clone(&self.asked));
                tasks.spawn("scripted-give", async move {
                    let _ = give(*inbound, &content, script, &asked).await;
                });
            }
        });
        Ok(())
    }
}

async fn give(
    mut inbound: InboundStream,
    content: &[u8],
    script: Script,
    asked: &Mutex<Vec<u32>>,
) -> Result<(), mesh::FrameError> {
    let stream = &mut inbound.stream;
    let BlobMessage::Want {
        first_group,
        hashes: wants_hashes,
        ..
    } = mesh::expect(stream).await?
    else {
        return Ok(());
    };
    asked.lock().unwrap().push(first_group);
    let longer = u64::from(matches!(script, Script::WrongLength));
    let bytes = content.len() as u64 + longer;
    mesh::write(stream, &BlobMessage::Have { bytes }).await?;
    let mut all = hashes(content);
    match script {
        Script::WrongHashes => all[0][0] ^= 1,
        Script::EndlessHashes => loop {
            mesh::write(stream, &BlobMessage::Hashes(all.concat())).await?;
        },
        _ => {}
    }
    if wants_hashes {
        mesh::write(stream, &BlobMessage::Hashes(all.concat())).await?;
    }
    for (index, group) in content.chunks(GROUP_BYTES).enumerate().skip(first_group as usize) {
        let mut group = group.to_vec();
        match script {
            Script::WrongGroup(wrong) if wrong == index => group[5] ^= 1,
            Script::StopsAfter(count) if index >= count => return Ok(()),
            _ => {}
        }
        for part in group.chunks(STREAM_PART_BYTES_MAX) {
            mesh::write(stream, &BlobMessage::Part(part.to_vec())).await?;
        }
    }
    let _ = stream.close().await;
    Ok(())
}

/// A scripted publisher, a good member that has the blob too, and one that wants it: what it gets, whether the good one says so in the DHT, and
/// from which groups on both were asked.
async fn fetched_from(script: Script, has_help: bool) -> (Result<Vec<u8>, BlobError>, Vec<u8>, [Vec<u32>; 2]) {
    let picture = Arc::new(content(6 * MIB + 1, 3));
    let asked = [Arc::new(Mutex::default()), Arc::new(Mutex::default())];
    let scripted = |script, which: usize| Scripted {
        content: Arc::clone(&picture),
        script,
        asked: Arc::clone(&asked[which]),
    };
    let builder = Node::builder().pattern(PubSub).pattern(scripted(script, 0));
    let publisher = start(
        builder,
        1,
        mesh_config("publisher", Vec::new(), "tcp"),
        Some(MeshKind::Open),
    )
    .await;
    let others = || vec![address(&publisher)];
    let builder = Node::builder().pattern(PubSub).pattern(scripted(Script::Good, 1));
    let good = start(builder, 2, mesh_config("good", others(), "tcp"), None).await;
    let wanting = node(3, Some(&publisher)).await;
    peers(&publisher, 2).await;
    peers(&good, 2).await;
    let id = BlobId::of_groups(&hashes(&picture)).unwrap();
    if has_help {
        let key = [b"weft-blob/", &id.as_bytes()[..]].concat();
        good.mesh().provide(key).await.unwrap();
    }
    let reference = Reference {
        id,
        bytes: picture.len() as u64,
        subject: subject("x"),
        publisher: publisher.mesh().local_peer(),
    };
    let outcome = match tokio::time::timeout(PATIENCE * 2, blobs(&wanting).fetch(&reference))
        .await
        .unwrap()
    {
        Ok(blob) => read(blob).await,
        Err(error) => Err(error),
    };
    let asked = asked.map(|asked| asked.lock().unwrap().clone());
    (outcome, picture.to_vec(), asked)
}

#[tokio::test]
async fn whatever_a_member_gives_nobody_sees_anything_but_the_blob() {
    for script in [
        Script::WrongHashes,
        Script::WrongGroup(0),
        Script::WrongLength,
        Script::EndlessHashes,
    ] {
        let (outcome, picture, asked) = fetched_from(script, true).await;
        assert!(outcome.unwrap() == picture, "{script:?}");
        assert_eq!(asked[0], [0], "{script:?}: it is not asked again");
    }
}

#[tokio::test]
async fn a_fetch_goes_on_with_another_from_where_it_broke_off() {
    for script in [Script::WrongGroup(5), Script::StopsAfter(5)] {
        let (outcome, picture, asked) = fetched_from(script, true).await;
        assert!(outcome.unwrap() == picture, "{script:?}");
        assert_eq!((asked[0].first(), asked[1].first()), (Some(&0), Some(&5)), "{script:?}");
    }
}

#[tokio::test]
async fn what_an_earlier_fetch_left_is_not_asked_for_again() {
    let picture = Arc::new(content(3 * MIB, 5));
    let asked = Arc::new(Mutex::default());
    let scripted = Scripted {
        content: Arc::clone(&picture),
        script: Script::Good,
        asked: Arc::clone(&asked),
    };
    let builder = Node::builder().pattern(PubSub).pattern(scripted);
    let config = mesh_config("publisher", Vec::new(), "tcp");
    let publisher = start(builder, 1, config, Some(MeshKind::Open)).await;
    let wanting = node(2, Some(&publisher)).await;
    peers(&wanting, 1).await;
    let reference = Reference {
        id: BlobId::of_groups(&hashes(&picture)).unwrap(),
        bytes: picture.len() as u64,
        subject: subject("x"),
        publisher: publisher.mesh().local_peer(),
    };
    let shelf = Arc::clone(&blobs(&wanting).shelf);
    let begun = shelf
        .begin(reference.id, reference.bytes, &reference.subject, &hashes(&picture))
        .await
        .unwrap();
    let groups = picture.chunks(GROUP_BYTES).take(3).map(Bytes::copy_from_slice);
    begun.append(groups.collect()).await.unwrap();
    drop(begun);
    let fetched = blobs(&wanting).fetch(&reference).await.unwrap();
    assert!(read(fetched).await.unwrap() == *picture);
    assert_eq!(*asked.lock().unwrap(), [3]);
    // What is here already, nothing that is fetched takes the place of.
    let same = hashes(&picture);
    let again = shelf.begin(reference.id, reference.bytes, &reference.subject, &same);
    assert!(again.await.is_err());
    assert!(shelf.facts(&reference.id).unwrap().is_whole);
}

#[tokio::test]
async fn a_blob_that_was_removed_while_it_was_read_and_came_anew_is_in_no_use() {
    let cupboard = Cupboard::new(64 * MIB);
    let (shelf, store) = cupboard.open().await;
    let id = put(&shelf, content(2 * MIB, 1)).await.unwrap();
    let reading = shelf.take(&id).await.unwrap();
    assert!(shelf.remove(&id).await.unwrap());
    assert_eq!(put(&shelf, content(2 * MIB, 1)).await.unwrap(), id);
    drop(reading);
    cupboard.advance(4000);
    assert_eq!(shelf.let_go_of_old().await.unwrap(), 1);
    assert!(store.logs().await.unwrap().is_empty());
}

#[tokio::test]
async fn without_a_member_that_gives_it_there_is_an_error_that_says_why() {
    let (outcome, _, _) = fetched_from(Script::WrongGroup(0), false).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("is not that of this blob"), "{error}");
}

#[tokio::test]
async fn a_blob_is_given_only_for_a_subject_on_which_it_was_published() {
    let a = node(1, None).await;
    let b = node(2, Some(&a)).await;
    peers(&b, 1).await;
    let reference = blobs(&a)
        .put(&subject("secret.plans"), BodyReader::of(content(3 * MIB, 4)))
        .await
        .unwrap();
    let elsewhere = Reference {
        subject: subject("public.plans"),
        ..reference.clone()
    };
    let refused = blobs(&b).fetch(&elsewhere).await.unwrap_err();
    assert!(refused.to_string().contains("does not have it"), "{refused}");
    let shorter = Reference {
        bytes: 5,
        ..reference.clone()
    };
    assert!(blobs(&b).fetch(&shorter).await.is_err());
    assert!(blobs(&b).fetch(&reference).await.is_ok());
}

/// A disk, a calendar, and shelves on them.
struct Cupboard {
    platform: Arc<TestPlatform>,
    options: BlobOptions,
}

impl Cupboard {
    fn new(bytes_max: usize) -> Self {
        Cupboard {
            platform: TestPlatform::new(),
            options: BlobOptions {
                bytes_max: bytes_max as u64,
                keep: Duration::from_secs(3600),
            },
        }
    }

    async fn open(&self) -> (Arc<Shelf>, Store) {
        let owner = *key(1).public().as_bytes();
        let options = StoreOptions {
            owner,
            ..StoreOptions::default()
        };
        let store = Store::open(self.platform.disk(), "/store".as_ref(), options)
            .await
            .unwrap();
        let parts = Parts {
            store: store.clone(),
            keyspace: store.keyspace("blobs"),
            clock: self.platform.clock.clone(),
            entropy: self.platform.entropy(),
            options: self.options,
        };
        (Arc::new(Shelf::open(parts).await.unwrap()), store)
    }

    fn advance(&self, seconds: u64) {
        self.platform.clock.advance(Duration::from_secs(seconds));
    }
}

async fn put(shelf: &Arc<Shelf>, data: Vec<u8>) -> Result<BlobId, BlobError> {
    let taken = put::put(shelf, &subject("x"), Vec::new(), BodyReader::of(data)).await?;
    Ok(taken.id)
}

#[tokio::test]
async fn what_was_not_used_for_long_makes_room_and_what_is_fresh_does_not() {
    let cupboard = Cupboard::new(8 * MIB);
    let (shelf, store) = cupboard.open().await;
    let first = put(&shelf, content(3 * MIB, 1)).await.unwrap();
    cupboard.advance(60);
    let second = put(&shelf, content(3 * MIB, 2)).await.unwrap();
    let full = put(&shelf, content(3 * MIB, 3)).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Busy, "{full}");
    cupboard.advance(700);
    // The first is read at this moment, so it is the second that goes.
    let read = shelf.take(&first).await.unwrap();
    let third = put(&shelf, content(3 * MIB, 3)).await.unwrap();
    let here = |id| shelf.facts(&id).is_some();
    assert_eq!((here(first), here(second), here(third)), (true, false, true));
    drop(read);
    assert_eq!(store.logs().await.unwrap().len(), 2);
    // Kept for an hour after it was used.
    cupboard.advance(3000);
    assert_eq!(shelf.let_go_of_old().await.unwrap(), 0);
    cupboard.advance(700);
    assert_eq!(shelf.let_go_of_old().await.unwrap(), 2);
    assert!(store.logs().await.unwrap().is_empty());
    // What is larger than all the room is refused, and leaves nothing.
    assert!(put(&shelf, content(9 * MIB, 4)).await.is_err());
    assert!(store.logs().await.unwrap().is_empty());
    assert!(put(&shelf, content(8 * MIB, 4)).await.is_ok());
}

#[tokio::test]
async fn the_same_content_is_kept_once_for_all_its_subjects() {
    let cupboard = Cupboard::new(64 * MIB);
    let (shelf, store) = cupboard.open().await;
    let data = content(2 * MIB + 5, 1);
    let id = put(&shelf, data.clone()).await.unwrap();
    let again = put::put(&shelf, &subject("y"), Vec::new(), BodyReader::of(data))
        .await
        .unwrap();
    assert_eq!(again.id, id);
    assert_eq!(shelf.facts(&id).unwrap().subjects, [subject("x"), subject("y")]);
    assert_eq!(store.logs().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_restart_keeps_what_is_whole_and_removes_what_nobody_names() {
    let cupboard = Cupboard::new(64 * MIB);
    let (shelf, store) = cupboard.open().await;
    let data = content(3 * MIB, 1);
    let id = put(&shelf, data.clone()).await.unwrap();
    // As a crash leaves it, half way through taking something in.
    let half = shelf.new_log().await.unwrap();
    half.append(vec![Bytes::from(content(MIB, 2))]).await.unwrap();
    drop(half);
    let other = content(6 * MIB, 3);
    let other_id = BlobId::of_groups(&hashes(&other)).unwrap();
    let begun = shelf
        .begin(other_id, other.len() as u64, &subject("x"), &hashes(&other))
        .await
        .unwrap();
    let groups: Vec<Bytes> = other.chunks(GROUP_BYTES).take(2).map(Bytes::copy_from_slice).collect();
    begun.append(groups).await.unwrap();
    drop((begun, shelf));
    assert_eq!(store.logs().await.unwrap().len(), 3);
    store.close().await.unwrap();
    drop(store);
    let (shelf, store) = cupboard.open().await;
    assert_eq!(store.logs().await.unwrap().len(), 2);
    let (whole, is_whole) = shelf.take(&id).await.unwrap().unwrap();
    assert!(is_whole);
    assert!(read(Content::new(whole, None)).await.unwrap() == data);
    let (part, is_whole) = shelf.take(&other_id).await.unwrap().unwrap();
    assert_eq!((part.groups(), is_whole), (2, false));
}

//! What survives when the disk is full, the power goes or a bit is flipped.

use std::collections::BTreeMap;

use super::*;
use crate::store::StoreError;

fn numbered(n: u64) -> Event {
    Event {
        id: Some(format!("event-{n}")),
        ..event(
            "k",
            &["all=yes"],
            format!("event {n}, {}", "x".repeat((n % 211) as usize)),
        )
    }
}

/// Appends until the power goes; what was acknowledged, by number.
async fn append_until_dark(stream: &Arc<Stream>, next: &mut u64, acknowledged: &mut BTreeMap<u64, u64>, seed: u64) {
    loop {
        let count = 1 + (seed ^ *next) % 5;
        let numbers: Vec<u64> = (*next..*next + count).collect();
        *next += count;
        match append(stream, numbers.iter().map(|n| numbered(*n)).collect()).await {
            Ok(appended) => acknowledged.extend(numbers.iter().copied().zip(appended.first..)),
            Err(_) => return,
        }
        if stream.write_block().await.is_err() {
            return;
        }
    }
}

/// Everything that was acknowledged is there, in its place, once, and found by its id.
async fn check(stream: &Arc<Stream>, acknowledged: &BTreeMap<u64, u64>) {
    let all = read_all(stream, From::Position(1), Query::default(), None).await;
    assert_eq!(positions(&all), (1..=all.len() as u64).collect::<Vec<_>>());
    for (n, position) in acknowledged {
        let kept = &all[*position as usize - 1];
        assert_eq!(kept.record().unwrap().event, numbered(*n));
    }
    // Nothing is there twice, also of what was not acknowledged.
    let mut ids = std::collections::BTreeSet::new();
    for kept in &all {
        assert!(
            ids.insert(kept.record().unwrap().event.id.unwrap()),
            "{} is there twice",
            kept.position
        );
    }
    let marked = read_all(stream, From::Position(1), query(&[(&[], &["all=yes"])]), None).await;
    assert_eq!(marked.len(), all.len());
    let (size, root) = stream.log.root_at_next().unwrap();
    assert_eq!(stream.hashes(&[(0, size)]).await.unwrap(), [root]);
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_power_goes() {
    for seed in 0..60_u64 {
        let place = Place::new();
        let (mut next, mut acknowledged) = (0_u64, BTreeMap::new());
        for cut in 0..4 {
            let (_store, stream) = place.open().await.unwrap();
            check(&stream, &acknowledged).await;
            // What may have been recorded and was not acknowledged is recorded once, when it is sent again.
            if let Some(first) = next.checked_sub(3) {
                for n in first..next {
                    let position = append(&stream, vec![numbered(n)]).await.unwrap().first;
                    acknowledged.insert(n, position);
                }
            }
            place.disk.cut_power_after(20 + (seed * 37 + cut * 101) % 900);
            append_until_dark(&stream, &mut next, &mut acknowledged, seed).await;
            drop((_store, stream));
            place.disk.crash_torn(seed * 4 + cut);
        }
        let (_store, stream) = place.open().await.unwrap();
        check(&stream, &acknowledged).await;
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_what_comes_after_is_right() {
    let place = Place::new();
    let (_store, stream) = place.open().await.unwrap();
    let mut acknowledged = BTreeMap::new();
    let mut next = 0;
    for round in 0..5_u64 {
        let used: u64 = place.disk.files().iter().map(|(_, bytes)| bytes).sum();
        place.disk.set_capacity(Some(used + 3000 + round * 777));
        let mut refused = 0;
        while refused < 3 {
            // Several at once: those behind the one that is refused were decided upon it.
            let sent: Vec<u64> = (next..next + 4).collect();
            next += 4;
            let appends = sent.iter().map(|n| append(&stream, vec![numbered(*n)]));
            for (n, outcome) in sent.iter().zip(futures::future::join_all(appends).await) {
                match outcome {
                    Ok(appended) => {
                        acknowledged.insert(*n, appended.first);
                    }
                    Err(StreamError::Store(StoreError::Full { .. }) | StreamError::Again(_)) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        place.disk.set_capacity(None);
        let appended = append(&stream, vec![numbered(next)]).await.unwrap();
        acknowledged.insert(next, appended.first);
        next += 1;
        check(&stream, &acknowledged).await;
    }
}

#[tokio::test]
async fn a_flipped_bit_is_found_and_never_served() {
    let place = Place::new();
    let (store, stream) = place.open().await.unwrap();
    for n in 0..400 {
        append(&stream, vec![numbered(n)]).await.unwrap();
    }
    write_blocks(&stream).await;
    store.close().await.unwrap();
    let segments: Vec<_> = place
        .disk
        .files()
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "seg"))
        .collect();
    assert!(segments.len() > 2, "{segments:?}");
    let (path, bytes) = &segments[1];
    // Behind the header, which has nothing of the records in it.
    for offset in (600..*bytes - 400).step_by(997) {
        place.disk.flip_bit(path, offset, 3).unwrap();
        let mut served = 0;
        if let Ok((store, stream)) = place.open().await {
            let mut index = 0;
            while index < 400 {
                match stream.read(index, 64).await {
                    Ok(page) if page.is_empty() => break,
                    Ok(page) => {
                        for kept in &page {
                            // A record that does not say what was appended would be served as it is.
                            assert_eq!(kept.record().unwrap().event, numbered(kept.position - 1));
                        }
                        served += page.len();
                        index = page.last().unwrap().position;
                    }
                    Err(StreamError::Store(StoreError::Corrupt { lost_records, .. })) => {
                        index = lost_records.map_or(index, |(_, last)| last) + 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            assert!((100..400).contains(&served), "{served} at {offset}");
            let _ = store.close().await;
        }
        place.disk.flip_bit(path, offset, 3).unwrap();
    }
}

#[tokio::test]
async fn a_copy_builds_upon_nothing_that_its_disk_did_not_take() {
    let place = Place::new();
    let (_store, stream) = place.open().await.unwrap();
    let append = async |entry: u64| {
        let origin = Origin::Group {
            author: crate::testing::key(1).public(),
            at_ms: 5,
            entry,
        };
        stream.append(append_of(vec![numbered(entry)]), origin).await
    };
    for entry in 0..10 {
        assert_eq!(append(entry).await.unwrap().last, entry + 1);
    }
    stream.settle().await.unwrap();
    let used: u64 = place.disk.files().iter().map(|(_, bytes)| bytes).sum();
    place.disk.set_capacity(Some(used));
    // They are taken, for others have them on their disks; that this one has not is known as soon as it is asked.
    let mut next = 10;
    while append(next).await.is_ok() {
        next += 1;
        if next % 64 == 0 && stream.settle().await.is_err() {
            break;
        }
    }
    stream.settle().await.unwrap_err();
    append(next + 1).await.unwrap_err();
    place.disk.set_capacity(None);
    stream.settle().await.unwrap_err();
    append(next + 1).await.unwrap_err();
    // From what is on the disk on, the group's log is done again; what is there already is passed over.
    stream.recover().await;
    for entry in 0..=next + 1 {
        match append(entry).await {
            Ok(appended) => assert_eq!(appended.last, entry + 1),
            Err(error) => assert!(matches!(error, StreamError::Conflict(_)), "{error}"),
        }
    }
    stream.settle().await.unwrap();
    let all = read_all(&stream, From::Position(1), Query::default(), None).await;
    let entries: Vec<_> = all.iter().map(|kept| kept.record().unwrap().entry.unwrap()).collect();
    assert_eq!(entries, (0..=next + 1).collect::<Vec<_>>());
}

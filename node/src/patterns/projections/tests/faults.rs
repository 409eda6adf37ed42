//! Each event counts once, whatever becomes of the disk.

use std::{path::Path, sync::Arc};

use super::*;
use crate::{
    patterns::projections::{ProjectionError, shelf::Shelf, table::Table},
    platform::disk::MemoryDisk,
    store::{Store, StoreError, StoreOptions},
};

const EVENTS: u64 = 600;

async fn open(disk: &MemoryDisk) -> Result<(Store, Shelf, Table), ProjectionError> {
    let options = StoreOptions {
        reserve_bytes: 0,
        ..StoreOptions::default()
    };
    let store = Store::open(Arc::new(disk.clone()), Path::new("/weft"), options).await?;
    let shelf = Shelf::new(store.keyspace("projections"));
    let query = Arc::new(Query::parse(TOTALS).unwrap());
    let table = Table::open(shelf.clone(), 1, "orders".parse().unwrap(), query).await?;
    Ok((store, shelf, table))
}

fn page(from: u64, count: u64) -> Vec<Recorded> {
    (from.max(1)..=EVENTS.min(from + count))
        .map(|number| recorded(number, event(number)))
        .collect()
}

/// What is kept is what the events up to where it has come make.
async fn check(shelf: &Shelf, table: &Table) {
    let position = table.progress().position;
    let query = Query::parse(TOTALS).unwrap();
    let groups = shelf.groups(1, b"", None, 1000).await.unwrap();
    let rows: Vec<_> = groups.iter().filter_map(|(_, group)| query.row(group)).collect();
    assert_eq!(
        rows,
        model(TOTALS, (1..=position).map(|number| (number, event(number)))),
        "up to {position}"
    );
    assert_eq!(table.progress().groups, rows.len() as u64);
    let taken = (1..=position).filter(|number| !number.is_multiple_of(5)).count();
    assert_eq!(table.progress().taken, taken as u64);
}

#[tokio::test]
async fn each_event_counts_once_when_the_power_goes() {
    for seed in 0..40_u64 {
        let disk = MemoryDisk::new();
        let mut cut = 0;
        loop {
            let (_store, shelf, mut table) = open(&disk).await.unwrap();
            check(&shelf, &table).await;
            if table.progress().position == EVENTS {
                break;
            }
            cut += 1;
            disk.cut_power_after(3 + (seed * 37 + cut * 101) % 60);
            // Some of what was read before comes again.
            let mut next = table.progress().position.saturating_sub(seed % 4) + 1;
            while next <= EVENTS {
                let count = (seed * 31 + next) % 40;
                if table.take(&page(next, count)).await.is_err() {
                    break;
                }
                next += count + 1;
            }
            drop((_store, table));
            disk.crash_torn(seed * 100 + cut);
        }
        assert!(cut > 1, "the power went once at least");
    }
}

#[tokio::test]
async fn a_full_disk_stops_it_and_changes_nothing() {
    let disk = MemoryDisk::new();
    let (_store, shelf, mut table) = open(&disk).await.unwrap();
    let (mut next, mut refused) = (1, 0);
    while next <= EVENTS {
        let used: u64 = disk.files().iter().map(|(_, bytes)| bytes).sum();
        disk.set_capacity((next % 3 == 1).then_some(used));
        match table.take(&page(next, 50)).await {
            Ok(()) => next += 51,
            Err(ProjectionError::Store(StoreError::Full { .. })) => {
                refused += 1;
                check(&shelf, &table).await;
                disk.set_capacity(None);
                table.take(&page(next, 50)).await.unwrap();
                next += 51;
            }
            Err(error) => panic!("{error}"),
        }
        check(&shelf, &table).await;
    }
    assert!(refused > 0, "the disk was never full");
    assert_eq!(table.progress().position, EVENTS);
}

#[tokio::test]
async fn what_cannot_be_taken_in_stops_it_there_for_good() {
    let disk = MemoryDisk::new();
    let (store, shelf, mut table) = open(&disk).await.unwrap();
    let mut records = page(1, 9);
    let long = json!({ "customer": "x".repeat(5000) });
    records[6].record.event.data = long.to_string().into_bytes();
    let stopped = table.take(&records).await.unwrap_err();
    assert!(
        matches!(&stopped, ProjectionError::Stopped(reason) if reason.contains("at the event 7")),
        "{stopped}"
    );
    check(&shelf, &table).await;
    assert_eq!(table.progress().position, 6);
    drop((store, table));
    let (_store, shelf, mut table) = open(&disk).await.unwrap();
    assert!(matches!(
        table.take(&page(8, 1)).await,
        Err(ProjectionError::Stopped(_))
    ));
    check(&shelf, &table).await;
}

#[tokio::test]
async fn events_that_are_gone_are_counted() {
    let disk = MemoryDisk::new();
    let (_store, _, mut table) = open(&disk).await.unwrap();
    table.take(&page(11, 3)).await.unwrap();
    assert_eq!((table.progress().position, table.progress().missed), (14, 10));
    table.belongs_to(17).await.unwrap();
    table.belongs_to(17).await.unwrap();
    assert!(matches!(table.belongs_to(18).await, Err(ProjectionError::Stopped(_))));
}

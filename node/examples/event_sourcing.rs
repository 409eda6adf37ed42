//! Event sourcing: alpha keeps a stream, beta appends to it, decides upon it and proves what it says.
#![expect(clippy::print_stdout, reason = "an example says what happens")]

use weft_node::Node;
use weft_node::patterns::event_sourcing::{EventSourcing, Read, StreamError, StreamOptions};
use weft_protocol::patterns::event_sourcing::{Append, Event, From, Query, ReadRequest};

mod support;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let (alpha, beta) = support::two_nodes(dir.path(), || Node::builder().pattern(EventSourcing)).await?;
    let missing = "no event sourcing";

    let orders = "orders".parse()?;
    let at_alpha = alpha.handle::<EventSourcing>().ok_or(missing)?;
    at_alpha.create(&orders, StreamOptions::default()).await?;

    let at_beta = beta.handle::<EventSourcing>().ok_or(missing)?;
    let order = |kind: &str, expect| Append {
        events: vec![Event::new(kind, br#"{"id":1}"#.to_vec())],
        expect,
        ..Append::default()
    };
    // Alpha's streams are known to beta a moment after they were made.
    while matches!(at_beta.info(&orders).await, Err(StreamError::NoStream(_))) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let created = at_beta.append(&orders, order("order.created", Some(0))).await?;
    // On alpha's disk now. Who decides upon what it was says so, and is told if it is not so any more.
    let paid = at_beta.append(&orders, order("order.paid", Some(created.last))).await?;
    let refused = at_beta.append(&orders, order("order.paid", Some(created.last))).await;
    println!("paid at {}, and not again: {}", paid.last, refused.is_err());

    let everything = ReadRequest {
        from: From::Position(1),
        query: Query::default(),
        follow: false,
        limit: None,
        is_upcast: None,
    };
    let mut reading = at_beta.read(&orders, everything).await?;
    while let Some(Read::Records(records)) = reading.next().await? {
        for recorded in records {
            println!("{} {}", recorded.position, recorded.record.event.kind);
        }
    }
    // A text that proves to anybody that this event is in alpha's stream, at its place.
    let proof = at_beta.prove(&orders, paid.last).await?;
    println!("{}", proof.verify()?.record.event.kind);
    beta.stop().await;
    alpha.stop().await;
    Ok(())
}

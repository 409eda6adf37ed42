//! Publish-subscribe: alpha takes in everything about orders, beta publishes.
#![expect(clippy::print_stdout, reason = "an example says what happens")]

use weft_node::Node;
use weft_node::patterns::pub_sub::{Delivery, PubSub, PublishOptions};

mod support;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let (alpha, beta) = support::two_nodes(dir.path(), || Node::builder().pattern(PubSub)).await?;

    let mut orders = alpha
        .handle::<PubSub>()
        .ok_or("alpha has no pub/sub")?
        .subscribe("orders.>".parse()?, None);
    let publisher = beta.handle::<PubSub>().ok_or("beta has no pub/sub")?;
    let subject = "orders.eu.created".parse()?;
    // Whether gossip knows its way to alpha yet does not matter: what it does not bring is fetched.
    publisher
        .publish(&subject, br#"{"id":1}"#.to_vec(), PublishOptions::default())
        .await?;

    match orders.next().await {
        Some(Delivery::Message(received)) => {
            println!(
                "{} published {:?}",
                received.publisher(),
                String::from_utf8_lossy(received.data())
            );
        }
        Some(Delivery::Dropped(count)) => println!("this subscriber was too slow for {count} messages"),
        Some(Delivery::Gap { publisher, first, last }) => println!("{first} to {last} of {publisher} are lost"),
        None => return Err("the node is stopping".into()),
    }
    beta.stop().await;
    alpha.stop().await;
    Ok(())
}

//! Publish-subscribe: alpha takes in everything about orders, beta publishes.
#![expect(clippy::print_stdout, reason = "an example says what happens")]

use std::time::Duration;

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
    let publish = || publisher.publish(&subject, br#"{"id":1}"#.to_vec(), PublishOptions::default());
    // Pub/sub does not wait for subscribers: a message that nobody was there for is gone.
    while publish().await?.peers == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    match orders.next().await {
        Some(Delivery::Message(received)) => {
            let message = &received.publication.message;
            println!(
                "{} published {:?}",
                received.publisher,
                String::from_utf8(message.data.clone())?
            );
        }
        Some(Delivery::Dropped(count)) => println!("this subscriber was too slow for {count} messages"),
        None => return Err("the node is stopping".into()),
    }
    beta.stop().await;
    alpha.stop().await;
    Ok(())
}

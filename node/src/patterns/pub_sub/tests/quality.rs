//! What is urgent, what can wait, and what there is no room for.

use std::time::Duration;

use weft_protocol::{
    Subject,
    patterns::pub_sub::{Attributes, Frame},
};

use super::{
    super::{queue::queue, received, window::ReplayWindow, *},
    direct::{handle, mesh},
    run,
};

fn options(priority: Priority) -> PublishOptions {
    PublishOptions {
        priority,
        wait_for_room: Some(Duration::ZERO),
        ..PublishOptions::default()
    }
}

#[tokio::test]
async fn what_is_urgent_overtakes_what_waits_and_what_can_wait_comes_last() {
    let nodes = mesh(1).await;
    let publisher = handle(&nodes[0]);
    let mut wanted = publisher.subscribe(">".parse().unwrap(), None);
    let subject: Subject = "a".parse().unwrap();
    // Handed in without giving the publisher's task a turn: they all wait when it looks.
    let mut queued = Vec::new();
    for n in 0..30 {
        let priority = [Priority::Low, Priority::Normal, Priority::High][n % 3];
        let handing_in = publisher.enqueue(&subject, vec![n as u8], options(priority));
        queued.push(futures::FutureExt::now_or_never(handing_in).unwrap().unwrap());
    }
    for queued in queued {
        queued.receipt().await.unwrap();
    }
    let mut told = Vec::new();
    for _ in 0..30 {
        let Some(Delivery::Message(received)) = wanted.next().await else {
            panic!("no message");
        };
        told.push(received.data()[0]);
    }
    let of = |rest: u8| (0..30).filter(move |n| n % 3 == rest);
    let expected: Vec<u8> = of(2).chain(of(1)).chain(of(0)).collect();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn who_does_not_wait_for_room_is_refused_at_once_and_urgent_ones_have_room_of_their_own() {
    let nodes = mesh(1).await;
    let publisher = handle(&nodes[0]);
    let subject: Subject = "a".parse().unwrap();
    let put = |priority| {
        let handing_in = publisher.enqueue(&subject, vec![7; 1_000_000], options(priority));
        futures::FutureExt::now_or_never(handing_in)
    };
    // The publisher's task has no turn, so it fills up.
    let mut kept = Vec::new();
    let mut fill = |priority| {
        for count in 0.. {
            match put(priority) {
                Some(Ok(queued)) => kept.push(queued),
                Some(Err(PublishError::Busy(_))) => return count,
                other => panic!("{other:?}"),
            }
        }
        0
    };
    assert_eq!(fill(Priority::Normal), 8);
    assert_eq!((fill(Priority::Low), fill(Priority::High)), (2, 2));
    for queued in kept {
        queued.receipt().await.unwrap();
    }
    // Now there is room again.
    assert!(put(Priority::Normal).unwrap().is_ok());
}

#[tokio::test]
async fn a_slow_subscriber_loses_first_what_can_wait_and_last_what_is_urgent() {
    const MOST: usize = 16;
    let ((line, peer), window) = (super::a_line(), ReplayWindow::default());
    let run_of = |priority: Priority| {
        let mut attributes = Attributes::new("a".parse().unwrap());
        attributes.set_extension(super::super::priority::PRIORITY, priority.as_str());
        let mut one = run("a", &[b"x"]);
        one.attributes = std::borrow::Cow::Owned(attributes);
        let kept = super::kept(&line, &peer, 1, vec![one]);
        let stretches = received::stretches(Frame::read(&kept.data).unwrap(), &kept.data);
        let source = window.source(&kept, None);
        received::Run::new(source, stretches.into_iter().next().unwrap(), 1)
    };
    let (low, normal, high) = (run_of(Priority::Low), run_of(Priority::Normal), run_of(Priority::High));
    let (sink, mut reader) = queue(MOST);
    let put =
        |run: &std::sync::Arc<received::Run>| (0..100).filter(|_| sink.put_run(run, 0, 1, usize::MAX) == 1).count();
    assert_eq!(put(&low), MOST / 2);
    // What could not wait is told in its place, which takes one.
    assert_eq!(put(&normal), MOST / 2 - 1);
    assert_eq!(put(&high), MOST / 8 - 1);
    let mut lost = 0;
    while let Some(delivery) = futures::FutureExt::now_or_never(reader.next()).flatten() {
        if let Delivery::Dropped(count) = delivery {
            lost += count;
        }
    }
    assert_eq!(lost as usize, 300 - MOST / 2 - (MOST / 2 - 1) - (MOST / 8 - 1));
}

#[tokio::test]
async fn what_comes_too_soon_is_left_out_for_each_subject() {
    let nodes = mesh(1).await;
    let publisher = handle(&nodes[0]);
    let (a, b): (Subject, Subject) = ("a".parse().unwrap(), "b".parse().unwrap());
    let (long, none) = (Duration::from_secs(3600), Duration::ZERO);
    let asked = [(&a, long), (&a, long), (&b, long), (&a, none), (&b, long)];
    let too_soon = asked.map(|(subject, pause)| publisher.is_too_soon(subject, pause));
    assert_eq!(too_soon, [false, true, false, false, true]);
}

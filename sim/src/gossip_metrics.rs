//! What a node's metrics say of its gossip: copies of messages, and neighbours. The same text whichever way a node is run.

use weft_protocol::{Subject, patterns::pub_sub::SHARDS};

const RECEIVED: &str = "gossipsub_topic_msg_recv_counts_unfiltered_total{";
const NEW: &str = "gossipsub_topic_msg_recv_counts_total{";
/// Copies that did not come as far as gossipsub's own counters. Without labels.
const DROPPED: &str = "weft_mesh_gossip_copies_dropped_total ";
const NEIGHBOURS: &str = "gossipsub_mesh_peer_counts{";

/// The values of a family, with their labels.
fn values<'a>(metrics: &'a str, family: &'static str) -> impl Iterator<Item = (&'a str, u64)> {
    let lines = metrics.lines().filter_map(move |line| line.strip_prefix(family));
    lines.filter_map(|line| {
        let (labels, value) = line.rsplit_once(' ')?;
        Some((labels, value.parse().ok()?))
    })
}

/// Copies beyond the first that a node's gossip has counted since its start.
pub(crate) fn copies(metrics: &str) -> u64 {
    let sum = |family| values(metrics, family).map(|(_, value)| value).sum::<u64>();
    let dropped = metrics
        .lines()
        .find_map(|line| line.strip_prefix(DROPPED)?.parse::<u64>().ok());
    sum(RECEIVED).saturating_sub(sum(NEW)) + dropped.unwrap_or_default()
}

/// Gossip neighbours on the topic that a subject travels on.
pub(crate) fn neighbours(metrics: &str, subject: &Subject) -> u32 {
    let topic = format!("/pub_sub/3/{}\"", subject.shard(SHARDS));
    // A value for those that know partial messages and one for those that do not, in no fixed order.
    let of_topic = values(metrics, NEIGHBOURS).filter(|(labels, _)| labels.contains(&topic));
    u32::try_from(of_topic.map(|(_, value)| value).sum::<u64>()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use weft_protocol::{MeshId, SecretKey, patterns::pub_sub::topic};

    use super::*;

    #[test]
    fn copies_and_neighbours_are_read_from_a_nodes_own_words() {
        let subject: Subject = "sim.news".parse().unwrap();
        let mesh = MeshId::from_root(&SecretKey::from_bytes(&[7; 32]).public());
        let (own, shard) = (subject.shard(SHARDS), subject.shard(SHARDS) ^ 1);
        let line = |family: &str, shard, value: u64| format!("{family}hash=\"{}\"}} {value}\n", topic(&mesh, shard));
        let neighbours_line = |partial: bool, value: u64| {
            let topic = topic(&mesh, own);
            format!("{NEIGHBOURS}supports_partial=\"{partial}\",topic_hash=\"{topic}\"}} {value}\n")
        };
        let text = [
            "# HELP gossipsub_mesh_peer_counts Number of peers\n".to_owned(),
            line(NEIGHBOURS, shard, 3),
            neighbours_line(true, 0),
            neighbours_line(false, 6),
            line(RECEIVED, own, 90),
            line(RECEIVED, shard, 10),
            line(NEW, own, 40),
            line("gossipsub_topic_msg_recv_counts_unfiltered_bytes{", own, 1000),
            format!("{DROPPED}5\n"),
        ]
        .concat();
        assert_eq!((copies(&text), neighbours(&text, &subject)), (65, 6));
        assert_eq!((copies(""), neighbours("", &subject)), (0, 0));
    }
}

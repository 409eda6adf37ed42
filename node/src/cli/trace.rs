//! `weft trace`: which way a message goes.

use std::{collections::BTreeSet, time::Duration};

use clap::Args;
use serde_json::Value;

use super::{CliError, Session, output::escape, parse, publish::MessageArgs, view};

/// Publish a message and show which nodes it comes by
///
/// Every node that takes it in says so, with its signature: from whom it came, when, and for how many subscriptions it is. With --trace-only
/// it is handed to no subscriber.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft trace orders.eu.created '{\"id\":1}'
  weft trace orders.eu.created x --trace-only        nobody's subscribers get it
  weft trace jobs.new x -H customer:7                to which member of a group the key leads
  weft trace alarms.fire --wait 10s --json           an object a node, with its signature

Times are those of each node's own calendar.")]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    message: MessageArgs,
    /// Hand it to no subscriber
    #[arg(long)]
    trace_only: bool,
    /// How long nodes have to say that it came by. What goes directly is over as soon as all have
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse::duration_positive)]
    wait: Duration,
}

/// Publishes, waits and draws.
pub(crate) async fn execute(session: &Session, args: TraceArgs) -> Result<(), CliError> {
    let client = session.client()?;
    let body = args.message.body().await?;
    let (subject, within_ms) = (parse::percent(&args.message.subject), args.wait.as_millis());
    let path = format!("/v1/traces/{subject}?only={}&within_ms={within_ms}", args.trace_only);
    let traced = client.send(args.message.request(path, body)).await?.json()?;
    let hops = view::list(&traced, "hops");
    if session.out.json {
        return hops.iter().try_for_each(|hop| session.out.json_line(hop));
    }
    for line in tree(hops) {
        session.out.line(&line)?;
    }
    let way = if view::flag(&traced, "direct") {
        "directly"
    } else {
        "by gossip"
    };
    let (id, subject) = (view::text(&traced, "id"), escape(&args.message.subject));
    let subscriptions = hops.iter().filter_map(|hop| view::number(hop, "subscriptions")).sum();
    let subscriptions = counted(subscriptions, "subscription");
    let but = if args.trace_only {
        ", and was handed to none"
    } else {
        ""
    };
    let nodes = counted(hops.len() as f64, "node");
    session.out.say(&format!(
        "{} on {subject} went {way} and came by {nodes}; it is for {subscriptions}{but}",
        escape(&id)
    ));
    Ok(())
}

/// `1 node`, `3 nodes`.
fn counted(count: f64, what: &str) -> String {
    let plural = if count == 1.0 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// The nodes below those from which they have it.
fn tree(hops: &[Value]) -> Vec<String> {
    let known: BTreeSet<String> = hops.iter().map(|hop| view::text(hop, "node")).collect();
    let is_root = |hop: &&Value| {
        let from = view::text(hop, "from");
        from == view::text(hop, "node") || !known.contains(&from)
    };
    let (mut lines, mut drawn) = (Vec::new(), BTreeSet::new());
    for root in hops.iter().filter(is_root) {
        draw(root, hops, ("", ""), &mut lines, &mut drawn);
    }
    // Those who name each other in a circle have no root.
    for hop in hops {
        draw(hop, hops, ("", ""), &mut lines, &mut drawn);
    }
    lines
}

fn draw(
    hop: &Value,
    hops: &[Value],
    (first, rest): (&str, &str),
    lines: &mut Vec<String>,
    drawn: &mut BTreeSet<String>,
) {
    let node = view::text(hop, "node");
    if !drawn.insert(node.clone()) {
        return;
    }
    let name = view::text(hop, "name");
    let name = if name.is_empty() {
        view::short_id(&node)
    } else {
        format!("{name} ({})", view::short_id(&node))
    };
    let after = view::number(hop, "after_ms").unwrap_or_default();
    lines.push(format!(
        "{first}{}  {}  {after:+} ms  {}",
        escape(&name),
        escape(&view::text(hop, "way")),
        counted(view::number(hop, "subscriptions").unwrap_or_default(), "subscription"),
    ));
    let from_here = |other: &&Value| view::text(other, "from") == node && view::text(other, "node") != node;
    let below: Vec<&Value> = hops.iter().filter(from_here).collect();
    for (index, next) in below.iter().enumerate() {
        let (branch, stem) = if index + 1 == below.len() {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        draw(
            next,
            hops,
            (&format!("{rest}{branch}"), &format!("{rest}{stem}")),
            lines,
            drawn,
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hop(node: &str, from: &str, way: &str) -> Value {
        json!({ "node": node, "name": node, "from": from, "way": way, "after_ms": 1, "subscriptions": 2 })
    }

    #[test]
    fn nodes_stand_below_those_from_whom_they_have_it() {
        let hops = [
            hop("a", "a", "published"),
            hop("b", "a", "gossip"),
            hop("c", "b", "gossip"),
            hop("d", "a", "gossip"),
            hop("e", "gone", "gossip"),
            hop("f", "g", "gossip"),
            hop("g", "f", "gossip"),
        ];
        let tree = tree(&hops);
        assert_eq!(tree.len(), 7, "{tree:#?}");
        assert!(
            tree[0].starts_with("a ") && tree[1].starts_with("├─ b") && tree[2].starts_with("│  └─ c"),
            "{tree:#?}"
        );
        assert!(
            tree[3].starts_with("└─ d") && tree[4].starts_with("e ") && tree[5].starts_with("f "),
            "{tree:#?}"
        );
    }
}

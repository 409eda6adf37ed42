//! `[[attack]]`: who means harm.

use super::super::{
    data::{Attack, AttackKind},
    reader::Keys,
};
use super::{Frame, NODES_MAX};

const ATTACKS_MAX: usize = 16;

const KINDS: [&str; 7] = [
    "sybil",
    "eclipse",
    "cold-boot",
    "flash",
    "covert-flash",
    "censor",
    "degrade",
];

pub(super) fn attacks(keys: &mut Keys<'_>, frame: &Frame) -> Vec<Attack> {
    let list = keys.list("attack");
    if list.len() > ATTACKS_MAX {
        keys.wrong(
            "attack",
            format!("is there {} times; {ATTACKS_MAX} is the most", list.len()),
        );
        return Vec::new();
    }
    list.into_iter().filter_map(|keys| attack(keys, frame)).collect()
}

fn attack(mut keys: Keys<'_>, frame: &Frame) -> Option<Attack> {
    let word = keys.need_word("kind", &KINDS);
    let attackers = keys.need("attackers");
    let at = keys.or("at", std::time::Duration::ZERO);
    let until = keys.or("until", frame.quiet_from);
    let connections = keys.or("connections", 8);
    let breaks_rules = keys.or("breaks_rules", false);
    let targeted = matches!(word, Some("eclipse" | "censor"));
    let victim: Option<usize> = if targeted { keys.opt("victim").or(Some(0)) } else { None };
    if victim.is_some_and(|victim| victim >= frame.nodes && frame.nodes > 0) {
        keys.wrong("victim", format!("is not a node: they are 0 to {}", frame.nodes - 1));
    }
    if at >= until || until > frame.duration {
        keys.wrong("until", "must be after the beginning and not after the end of the run");
    }
    if attackers.is_some_and(|count: usize| count == 0 || count.saturating_add(frame.nodes) > NODES_MAX) {
        keys.wrong(
            "attackers",
            format!(
                "must be from 1 to {} with this fleet",
                NODES_MAX - frame.nodes.min(NODES_MAX)
            ),
        );
    }
    if connections == 0 || connections > 1024 {
        keys.wrong("connections", "must be from 1 to 1024");
    }
    let kind = match word? {
        "sybil" => AttackKind::Sybil,
        "eclipse" => AttackKind::Eclipse,
        "cold-boot" => AttackKind::ColdBoot,
        "flash" => AttackKind::Flash,
        "covert-flash" => AttackKind::CovertFlash,
        "censor" => AttackKind::Censor,
        _ => AttackKind::Degrade,
    };
    keys.done();
    Some(Attack {
        kind,
        attackers: attackers?,
        at,
        until,
        victim,
        connections,
        breaks_rules,
    })
}

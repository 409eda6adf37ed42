//! What goes wrong, and when: decided from the scenario and the seed before anything starts.
//!
//! Promises: the same scenario and seed give the same plan; after [`Scenario::quiet_from`] nothing goes wrong any more and
//! everything that was broken is whole again, so that what is left must heal.

use std::collections::BTreeMap;

use crate::{
    network::{HostId, ns, unit},
    report::FaultSpan,
    scenario::{Fault, FaultKind, Link, Scenario, Target, When},
    virtual_os::split_mix,
};

/// One thing to do to the mesh.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// The power goes; the disk keeps what it synced.
    PowerCut(HostId),
    /// The power goes in the middle of a write.
    TornWrite(HostId, u64),
    /// The power goes, and a bit of the disk is another one afterwards.
    BitFlip(HostId, u64),
    /// The process dies.
    Kill(HostId),
    /// The node is started, again or for the first time.
    Start(HostId),
    /// Nothing passes between these parts until `Join` with the same number.
    Islands(u64, Vec<u16>),
    /// Nothing passes between these and the rest.
    Apart(u64, Vec<HostId>),
    /// Nothing passes from the first to the second.
    OneWay(u64, Vec<HostId>, Vec<HostId>),
    /// The process stands still, until `Resume`.
    Pause(HostId),
    /// It goes on.
    Resume(HostId),
    /// A wall is gone.
    Join(u64),
    /// Links are worse until `Restore` with the same number.
    Degrade(u64, Vec<HostId>, Link),
    /// Links are as they were.
    Restore(u64),
    /// A calendar jumps.
    Skew(HostId, i64),
    /// Applications take calls and answer none; or answer again.
    Hang(HostId, bool),
    /// A disk is full, or has room again.
    Full(HostId, bool),
    /// A disk lies about syncs, or tells the truth again.
    Lie(HostId, bool),
}

/// The plan: what to do, in order of time, and what to show.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// What to do and when, nanoseconds from the start.
    pub steps: Vec<(u64, Step)>,
    /// The same for people.
    pub spans: Vec<FaultSpan>,
    /// Nodes that do not start at their group's time: a flash crowd starts them.
    pub held_back: Vec<HostId>,
}

impl Plan {
    /// When the last fault is over.
    pub fn ends_ns(&self) -> u64 {
        self.steps.iter().map(|(at_ns, _)| *at_ns).max().unwrap_or(0)
    }
}

struct Planner<'a> {
    scenario: &'a Scenario,
    dice: u64,
    number: u64,
    quiet_ns: u64,
    /// Nodes that are down, and until when; who is down is not hit again.
    busy_until: BTreeMap<HostId, u64>,
    plan: Plan,
}

/// Plans the faults of a run.
pub fn plan(scenario: &Scenario, seed: u64) -> Plan {
    let mut planner = Planner {
        scenario,
        dice: seed ^ 0xC4A0_5000,
        number: 0,
        quiet_ns: ns(scenario.quiet_from()),
        busy_until: BTreeMap::new(),
        plan: Plan::default(),
    };
    let mut events: Vec<(u64, &Fault)> = Vec::new();
    for fault in &scenario.faults {
        match fault.when {
            When::At(at) => events.push((ns(at), fault)),
            When::Rate { per_second, from } => {
                let mut at_ns = ns(from);
                loop {
                    let pause_s = -unit(&mut planner.dice).max(f64::MIN_POSITIVE).ln() / per_second;
                    at_ns = at_ns.saturating_add((pause_s * 1e9) as u64);
                    if at_ns >= ns(fault.until) || at_ns >= planner.quiet_ns {
                        break;
                    }
                    events.push((at_ns, fault));
                }
            }
        }
    }
    // In order of time, so that who is down is known; of one time, in the scenario's order.
    events.sort_by_key(|(at_ns, _)| *at_ns);
    for (at_ns, fault) in events {
        planner.add(at_ns, fault);
    }
    let mut plan = planner.plan;
    plan.steps.sort_by_key(|(at_ns, _)| *at_ns);
    plan.spans.sort_by(|a, b| a.from.total_cmp(&b.from));
    plan
}

impl Planner<'_> {
    fn add(&mut self, at_ns: u64, fault: &Fault) {
        let targets = self.choose(&fault.target, at_ns);
        let until_ns = self.end(at_ns, fault);
        self.number += 1;
        let number = self.number;
        let (what, over_ns) = match &fault.kind {
            FaultKind::Churn { down } => {
                let back_ns = (at_ns + ns(*down)).min(self.quiet_ns);
                self.crash(at_ns, &targets, Some(back_ns), |host, _| Step::PowerCut(host));
                ("away", back_ns)
            }
            FaultKind::Kill { restart } => {
                let back_ns = restart.map(|after| (at_ns + ns(after)).min(self.quiet_ns));
                self.crash(at_ns, &targets, back_ns, |host, _| Step::Kill(host));
                ("killed", back_ns.unwrap_or(at_ns))
            }
            FaultKind::TornWrite => {
                self.crash(at_ns, &targets, Some(until_ns), Step::TornWrite);
                ("torn write", until_ns)
            }
            FaultKind::BitFlip => {
                self.crash(at_ns, &targets, Some(until_ns), Step::BitFlip);
                ("bit flip", until_ns)
            }
            FaultKind::LostFsync => {
                for host in &targets {
                    self.step(at_ns, Step::Lie(*host, true));
                    self.step(until_ns, Step::PowerCut(*host));
                    self.step(until_ns, Step::Lie(*host, false));
                    self.step(until_ns + 1_000_000, Step::Start(*host));
                }
                ("lost syncs", until_ns)
            }
            FaultKind::DiskFull => {
                for host in &targets {
                    self.step(at_ns, Step::Full(*host, true));
                    self.step(until_ns, Step::Full(*host, false));
                }
                ("disk full", until_ns)
            }
            FaultKind::Hang => {
                for host in &targets {
                    self.step(at_ns, Step::Hang(*host, true));
                    self.step(until_ns, Step::Hang(*host, false));
                }
                ("hanging", until_ns)
            }
            FaultKind::Skew { by_ms } => {
                for host in &targets {
                    self.step(at_ns, Step::Skew(*host, *by_ms));
                    self.step(until_ns, Step::Skew(*host, -*by_ms));
                }
                ("clock wrong", until_ns)
            }
            FaultKind::Partition => self.wall(at_ns, until_ns, Step::Apart(number, targets.clone()), "cut off"),
            FaultKind::Pause => {
                for host in &targets {
                    self.step(at_ns, Step::Pause(*host));
                    self.step(until_ns, Step::Resume(*host));
                    // Who stands still is not hit again: two pauses at once would end with the first.
                    self.busy_until.insert(*host, until_ns);
                }
                ("paused", until_ns)
            }
            FaultKind::Islands { islands } => {
                let parts = self.parts(*islands);
                self.wall(at_ns, until_ns, Step::Islands(number, parts), "islands")
            }
            FaultKind::Cut { from, to } => {
                let hosts = |group: &Option<String>| {
                    let nodes = self.scenario.nodes_of(group.as_deref());
                    nodes.into_iter().map(|node| node as HostId).collect()
                };
                let step = Step::OneWay(number, hosts(from), hosts(to));
                self.wall(at_ns, until_ns, step, "cut in one direction")
            }
            FaultKind::Degrade { link } => {
                self.step(at_ns, Step::Degrade(number, targets.clone(), link.clone()));
                self.step(until_ns, Step::Restore(number));
                ("links worse", until_ns)
            }
            FaultKind::FlashCrowd => {
                for host in &targets {
                    self.step(at_ns, Step::Start(*host));
                }
                self.plan.held_back.extend(&targets);
                ("flash crowd", at_ns)
            }
        };
        self.plan.spans.push(FaultSpan {
            what: what.to_owned(),
            from: at_ns as f64 / 1e9,
            until: over_ns as f64 / 1e9,
            nodes: targets,
        });
    }

    /// When a fault of this time is over: never in the quiet phase.
    fn end(&self, at_ns: u64, fault: &Fault) -> u64 {
        let own_ns = match fault.when {
            When::At(_) => ns(fault.until),
            When::Rate { .. } => at_ns + ns(fault.lasts),
        };
        own_ns.max(at_ns).min(self.quiet_ns.max(at_ns))
    }

    fn wall(&mut self, at_ns: u64, until_ns: u64, step: Step, what: &'static str) -> (&'static str, u64) {
        let number = self.number;
        self.step(at_ns, step);
        self.step(until_ns, Step::Join(number));
        (what, until_ns)
    }

    fn crash(&mut self, at_ns: u64, targets: &[HostId], back_ns: Option<u64>, crash: impl Fn(HostId, u64) -> Step) {
        for host in targets {
            let seed = split_mix(&mut self.dice);
            self.step(at_ns, crash(*host, seed));
            if let Some(back_ns) = back_ns {
                self.step(back_ns.max(at_ns + 1_000_000), Step::Start(*host));
            }
            self.busy_until.insert(*host, back_ns.unwrap_or(u64::MAX));
        }
    }

    fn step(&mut self, at_ns: u64, step: Step) {
        self.plan.steps.push((at_ns, step));
    }

    /// Those a fault names, or as many as it says at random, of those who are not down already.
    fn choose(&mut self, target: &Target, at_ns: u64) -> Vec<HostId> {
        if !target.nodes.is_empty() {
            return target.nodes.iter().map(|node| *node as HostId).collect();
        }
        let nodes = self.scenario.nodes_of(target.group.as_deref());
        let is_free = |host: &HostId| self.busy_until.get(host).is_none_or(|until| *until < at_ns);
        let mut free: Vec<HostId> = nodes.into_iter().map(|node| node as HostId).filter(is_free).collect();
        let mut chosen = Vec::new();
        for _ in 0..target.count.min(free.len()) {
            let index = split_mix(&mut self.dice) as usize % free.len();
            chosen.push(free.swap_remove(index));
        }
        chosen.sort_unstable();
        chosen
    }

    /// Everybody on one of so many islands of about the same size.
    fn parts(&mut self, islands: usize) -> Vec<u16> {
        let nodes = self.scenario.nodes();
        let mut order: Vec<usize> = (0..nodes).collect();
        for index in (1..nodes).rev() {
            order.swap(index, split_mix(&mut self.dice) as usize % (index + 1));
        }
        let mut parts = vec![0; nodes];
        for (place, node) in order.into_iter().enumerate() {
            parts[node] = (place % islands.max(1)) as u16;
        }
        parts
    }
}

#[cfg(test)]
mod tests;

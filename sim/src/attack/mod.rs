//! Members that do what they should not: the attacks of the gossipsub v1.1 evaluation.
//!
//! An attacker is a node of its own, admitted with a certificate as if its key had been stolen; it grafts itself into the
//! gossip mesh as every node does. What differs is the pattern that stands where pub/sub stands on an honest node: it
//! takes in all topics, and gives the verdict [`Behaviour`] says. A message without the verdict "accept" goes no further.
//! One that breaks gossip's rules, too, has another wire ([`TamperedMuxer`]): what its node says is changed under it.
//!
//! Not here: attacks by strangers, which admission keeps out before gossip hears of them.

mod rpc;
mod wire;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;
use weft_node::{
    Context, NodeError, Pattern,
    mesh::{Mesh, Validation},
    trust::Standing,
};
use weft_protocol::{
    PeerId,
    patterns::pub_sub::{PATTERN_ID, SHARDS, topic},
};

pub use wire::TamperedMuxer;

use crate::{network::unit, scenario::AttackKind, virtual_os::split_mix};

/// Messages waiting for a verdict.
const QUEUE_MAX: usize = 4096;
/// How late a degrading attacker forwards, and how much of it.
const DEGRADED_LATE: Duration = Duration::from_millis(800);
const DEGRADED_SHARE: f64 = 0.5;

/// What the attackers of one attack do; shared by them.
#[derive(Debug)]
pub struct Behaviour {
    kind: AttackKind,
    victim: Option<PeerId>,
    hostile: AtomicBool,
    /// Gossip's rules mean nothing to them either.
    lawless: bool,
    seed: u64,
}

impl Behaviour {
    /// Attackers that behave until [`Behaviour::set_hostile`] says otherwise.
    pub fn new(kind: AttackKind, victim: Option<PeerId>, lawless: bool, seed: u64) -> Arc<Behaviour> {
        Arc::new(Behaviour {
            kind,
            victim,
            lawless,
            hostile: AtomicBool::new(false),
            seed,
        })
    }

    /// Whether they misbehave from now on.
    pub fn set_hostile(&self, hostile: bool) {
        self.hostile.store(hostile, Ordering::Relaxed);
    }

    /// Whether they break gossip's rules now.
    pub fn breaks_rules(&self) -> bool {
        self.lawless && self.hostile.load(Ordering::Relaxed)
    }

    /// Whether nobody gets a message from them, who asks for it or not.
    fn starves(&self) -> bool {
        !matches!(self.kind, AttackKind::Censor | AttackKind::Degrade)
    }

    /// What to say of a message, and after which time.
    fn verdict(&self, source: PeerId, dice: &mut u64) -> (Validation, Duration) {
        if !self.hostile.load(Ordering::Relaxed) {
            return (Validation::Accept, Duration::ZERO);
        }
        let verdict = match self.kind {
            AttackKind::Sybil
            | AttackKind::Eclipse
            | AttackKind::ColdBoot
            | AttackKind::Flash
            | AttackKind::CovertFlash => Validation::Ignore,
            AttackKind::Censor if Some(source) == self.victim => Validation::Ignore,
            AttackKind::Censor => Validation::Accept,
            AttackKind::Degrade if unit(dice) < DEGRADED_SHARE => return (Validation::Accept, DEGRADED_LATE),
            AttackKind::Degrade => Validation::Ignore,
        };
        (verdict, Duration::ZERO)
    }
}

/// The pattern of an attacker.
pub struct Attacker {
    behaviour: Arc<Behaviour>,
}

impl Attacker {
    /// One that behaves like this.
    pub fn new(behaviour: Arc<Behaviour>) -> Self {
        Attacker { behaviour }
    }
}

impl Pattern for Attacker {
    /// It passes for pub/sub, so that its protocols are those of an honest node.
    const ID: &'static str = PATTERN_ID;
    type Handle = ();

    async fn start(self, context: Context) -> Result<(), NodeError> {
        // Nobody is let in: its doors are dropped.
        let Context { mesh, tasks, .. } = context;
        tasks.spawn("attacker", attack(mesh, self.behaviour));
        Ok(())
    }
}

async fn attack(mesh: Mesh, behaviour: Arc<Behaviour>) {
    let mut standing = mesh.trust().watch_standing();
    if standing.wait_for(|s| matches!(s, Standing::Member(_))).await.is_err() {
        return;
    }
    let Some(info) = mesh.trust().mesh() else { return };
    let (sink, mut gossip) = mpsc::channel(QUEUE_MAX);
    for shard in 0..SHARDS {
        if mesh.subscribe(topic(&info.id, shard), sink.clone()).await.is_err() {
            return;
        }
    }
    let mut dice = behaviour.seed;
    split_mix(&mut dice);
    while let Some(message) = gossip.recv().await {
        let (verdict, late) = behaviour.verdict(message.source, &mut dice);
        if !late.is_zero() {
            // One after the other: who is late with one is late with all behind it too.
            tokio::time::sleep(late).await;
        }
        let _ = mesh.validate(&message, verdict).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(kind: AttackKind, victim: PeerId, source: PeerId, hostile: bool) -> usize {
        let behaviour = Behaviour::new(kind, Some(victim), true, 1);
        behaviour.set_hostile(hostile);
        assert_eq!(behaviour.breaks_rules(), hostile);
        let mut dice = 1;
        let verdicts = (0..100).map(|_| behaviour.verdict(source, &mut dice));
        verdicts.filter(|(verdict, _)| *verdict == Validation::Accept).count()
    }

    #[test]
    fn each_attack_forwards_what_it_says() {
        let (victim, other) = (PeerId::random(), PeerId::random());
        for kind in [
            AttackKind::Sybil,
            AttackKind::CovertFlash,
            AttackKind::Censor,
            AttackKind::Degrade,
        ] {
            assert_eq!(accepts(kind, victim, victim, false), 100, "{kind:?} behaves at first");
        }
        assert_eq!(accepts(AttackKind::Sybil, victim, other, true), 0);
        assert_eq!(accepts(AttackKind::Censor, victim, victim, true), 0);
        assert_eq!(accepts(AttackKind::Censor, victim, other, true), 100);
        let degraded = accepts(AttackKind::Degrade, victim, other, true);
        assert!((30..70).contains(&degraded), "{degraded}");
    }
}

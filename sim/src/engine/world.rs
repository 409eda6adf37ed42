//! The conductor: what is done to the mesh, when, in order of time.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};
use weft_node::tasks::Tasks;
use weft_protocol::{Pattern, PeerId, Subject};

use super::{
    layout::{honest, hostile, links},
    sample::Sampler,
};
use crate::{
    attack::Behaviour,
    chaos::{self, Step},
    disk::SimDisk,
    fleet::Fleet,
    network::{HostId, HostSet, Network, Wall, ns},
    oracle::Oracle,
    report::Sample,
    run::{Cancel, Progress, RunError, Watch},
    scenario::{AttackKind, Dial, Nat, Scenario, Taker, Transport, WorkloadKind},
    topology::{self, Graph},
    virtual_os::split_mix,
    workload::{self, Ledger},
};

/// Samples of a run, at most.
const SAMPLES: u32 = 60;
/// Between two samples, at least.
const SAMPLE_EVERY_MIN: Duration = Duration::from_secs(1);
/// Before a covert attack begins, attackers behave.
const ATTACKERS_EARLIER: Duration = Duration::from_secs(10);

/// Something to do.
enum Deed {
    Step(Step),
    Make(usize),
    Send(usize),
    Hostile(usize, bool),
    Sample,
}

/// See the module.
pub(super) struct World<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) seed: u64,
    watch: &'a dyn Watch,
    cancel: &'a Cancel,
    pub(super) network: Arc<Network>,
    pub(super) fleet: Fleet,
    pub(super) ledger: Arc<Ledger>,
    pub(super) graph: Graph,
    pub(super) faults: chaos::Plan,
    pub(super) behaviours: Vec<Arc<Behaviour>>,
    pub(super) samples: Vec<Sample>,
    pub(super) notes: Vec<String>,
    pub(super) ended_early: Option<String>,
    /// When the mesh was last seen in parts.
    pub(super) apart_ns: Option<u64>,
    /// The last look at it found one mesh.
    pub(super) whole_at_end: bool,
    /// The share of honest nodes' gossip neighbours that attack, when it was last looked at.
    pub(super) attacker_share: f64,
    sampler: Sampler,
    deeds: Vec<(u64, Deed)>,
    walls: BTreeMap<u64, u64>,
    /// Who looks for what was appended, at each node that runs or ran.
    lookers: BTreeMap<HostId, mpsc::Sender<workload::Look>>,
    tasks: Tasks,
    dice: u64,
    parts: Parts,
}

/// Who takes part in which workload, by the workload's number.
struct Parts {
    senders: Vec<Vec<HostId>>,
    receivers: Vec<Vec<HostId>>,
    /// Of those that publish.
    subjects: BTreeMap<usize, Subject>,
    /// Of those that publish: what their receivers subscribe to.
    patterns: BTreeMap<usize, Pattern>,
    /// Of those that append.
    streams: BTreeMap<usize, Subject>,
}

impl Parts {
    fn new(scenario: &Scenario) -> Result<Parts, RunError> {
        let hosts = |group: &Option<String>| -> Vec<HostId> {
            let nodes = scenario.nodes_of(group.as_deref());
            nodes.into_iter().map(|node| node as HostId).collect()
        };
        let mut parts = Parts {
            senders: Vec::new(),
            receivers: Vec::new(),
            subjects: BTreeMap::new(),
            patterns: BTreeMap::new(),
            streams: BTreeMap::new(),
        };
        for (index, workload) in scenario.workloads.iter().enumerate() {
            let mut senders = hosts(&workload.from);
            senders.truncate(workload.senders);
            parts.senders.push(senders);
            parts.receivers.push(hosts(&workload.to));
            let parsed = |text: &String| text.parse().map_err(|e| RunError::Failed(format!("{text}: {e}")));
            match &workload.kind {
                WorkloadKind::Publish { subject, retain } => {
                    let subject = parsed(subject)?;
                    let pattern = match retain {
                        true => below(&subject, "*").map_err(|e| RunError::Failed(format!("{subject}.*: {e}")))?,
                        false => Pattern::exactly(&subject),
                    };
                    parts.patterns.insert(index, pattern);
                    parts.subjects.insert(index, subject);
                }
                WorkloadKind::Append { .. } | WorkloadKind::Call { .. } | WorkloadKind::Batch(_) => {}
            }
            if let Some((stream, _)) = workload.kind.stream() {
                parts.streams.insert(index, parsed(&stream.to_owned())?);
            }
        }
        Ok(parts)
    }

    fn oracle(&self, scenario: &Scenario) -> Oracle {
        let workloads = scenario.workloads.iter().zip(&self.receivers).enumerate();
        Oracle::new(workloads.map(|(index, (workload, receivers))| {
            let is_publish = self.subjects.contains_key(&index);
            (workload.name.clone(), is_publish, receivers.iter().copied().collect())
        }))
    }
}

impl<'a> World<'a> {
    pub(super) fn new(
        scenario: &'a Scenario,
        seed: u64,
        watch: &'a dyn Watch,
        cancel: &'a Cancel,
    ) -> Result<World<'a>, RunError> {
        let failed = |error: &dyn std::fmt::Display| RunError::Failed(error.to_string());
        let (nodes, groups) = (scenario.nodes(), scenario.group_of_node());
        let own_seed = scenario.topology.seed.unwrap_or(seed);
        let graph = topology::make(&scenario.topology.kind, nodes, own_seed, Path::new(""))?;
        let attackers: usize = scenario.attacks.iter().map(|attack| attack.attackers).sum();
        let mut nats: Vec<Nat> = groups.iter().map(|group| scenario.fleet[*group].nat).collect();
        nats.resize(nodes + attackers, Nat::None);
        let network = Network::new(seed, &nats, links(scenario, seed, &groups));
        if scenario.transport == Some(Transport::Quic) {
            network.speak_quic();
        }
        let mut dice = seed ^ 0x5EED_0F11;
        let mut plans = honest(scenario, &graph, &groups);
        let mut edges: Vec<(HostId, HostId)> = graph.edges().collect();
        let behaviours = hostile(scenario, seed, &mut plans, &mut edges, &mut dice);
        if scenario.topology.dial == Dial::Edges {
            network.restrict_to(edges);
        }
        let mut fleet = Fleet::new(Arc::clone(&network), seed, scenario.open, plans).map_err(|error| failed(&error))?;
        let has = |is_it: fn(&WorkloadKind) -> bool| scenario.workloads.iter().any(|workload| is_it(&workload.kind));
        if has(|kind| kind.stream().is_some()) {
            fleet = fleet.with_streams();
        }
        if has(|kind| matches!(kind, WorkloadKind::Batch(_))) {
            fleet = fleet.with_queues();
        }
        let peers: Vec<PeerId> = (0..fleet.len()).map(|host| fleet.peer(host as HostId)).collect();
        let parts = Parts::new(scenario)?;
        let oracle = parts.oracle(scenario);
        let ledger = Ledger::new(oracle, Arc::clone(&network), &peers, seed, &scenario.workloads);
        let mut world = World {
            scenario,
            seed,
            watch,
            cancel,
            sampler: Sampler::new(&peers, nodes, parts.subjects.values().next()),
            network,
            fleet,
            ledger,
            graph,
            faults: chaos::plan(scenario, seed),
            behaviours,
            samples: Vec::new(),
            notes: Vec::new(),
            ended_early: None,
            apart_ns: None,
            whole_at_end: false,
            attacker_share: 0.0,
            deeds: Vec::new(),
            walls: BTreeMap::new(),
            lookers: BTreeMap::new(),
            tasks: Tasks::new(),
            dice,
            parts,
        };
        world.lay_out();
        Ok(world)
    }

    /// Everything that is to be done, in order of time.
    fn lay_out(&mut self) {
        let scenario = self.scenario;
        let mut deeds: Vec<(u64, Deed)> = Vec::new();
        let held: BTreeSet<HostId> = self.faults.held_back.iter().copied().collect();
        let mut first = 0;
        for group in &scenario.fleet {
            for index in 0..group.count {
                let host = (first + index) as HostId;
                let at = group.start + group.start_over.mul_f64(index as f64 / group.count.max(1) as f64);
                if !held.contains(&host) {
                    deeds.push((ns(at), Deed::Step(Step::Start(host))));
                }
            }
            first += group.count;
        }
        for (index, attack) in scenario.attacks.iter().enumerate() {
            let start = match attack.kind {
                AttackKind::ColdBoot => Duration::ZERO,
                AttackKind::CovertFlash => attack.at.saturating_sub(ATTACKERS_EARLIER),
                _ => attack.at,
            };
            for host in first..first + attack.attackers {
                deeds.push((ns(start), Deed::Step(Step::Start(host as HostId))));
            }
            first += attack.attackers;
            deeds.push((ns(attack.at), Deed::Hostile(index, true)));
            deeds.push((ns(attack.until), Deed::Hostile(index, false)));
        }
        for (index, workload) in scenario.workloads.iter().enumerate() {
            if workload.kind.stream().is_some() {
                deeds.push((ns(workload.start), Deed::Make(index)));
            }
            for item in 0..workload.planned() {
                let at = workload.start + Duration::from_secs_f64(item as f64 / workload.per_second);
                deeds.push((ns(at), Deed::Send(index)));
            }
        }
        let steps = std::mem::take(&mut self.faults.steps);
        deeds.extend(steps.iter().map(|(at_ns, step)| (*at_ns, Deed::Step(step.clone()))));
        self.faults.steps = steps;
        let every = (scenario.duration / SAMPLES).max(SAMPLE_EVERY_MIN);
        let mut at = every;
        while at <= scenario.duration {
            deeds.push((ns(at), Deed::Sample));
            at += every;
        }
        // Of one time: as they were added, starts first.
        deeds.sort_by_key(|(at_ns, _)| *at_ns);
        self.deeds = deeds;
    }

    /// Does everything, until the end.
    ///
    /// # Errors
    /// When a task of a node has panicked: whatever the checks would say, that is a bug.
    pub(super) async fn run(&mut self) -> Result<(), RunError> {
        let origin = Instant::now();
        self.tasks.spawn("network", Arc::clone(&self.network).run());
        for (at_ns, deed) in std::mem::take(&mut self.deeds) {
            tokio::time::sleep_until(origin + Duration::from_nanos(at_ns)).await;
            if self.cancel.is_cancelled() {
                let at = Duration::from_nanos(self.network.now_ns()).as_secs_f64();
                self.ended_early = Some(format!("told to stop after {at:.1} virtual seconds"));
                return Ok(());
            }
            if !matches!(deed, Deed::Send(_)) {
                self.look_for_panics()?;
            }
            match deed {
                Deed::Step(step) => self.step(step).await,
                Deed::Make(workload) => self.make(workload).await,
                Deed::Send(workload) => self.send(workload),
                Deed::Hostile(attack, hostile) => self.behaviours[attack].set_hostile(hostile),
                Deed::Sample => self.sample().await,
            }
        }
        tokio::time::sleep_until(origin + self.scenario.duration).await;
        self.look_back().await;
        self.look_for_panics()
    }

    /// What nodes that run know in the end: streams, queues, last values.
    async fn look_back(&self) {
        let ledger = &self.ledger;
        for (index, workload) in self.scenario.workloads.iter().enumerate() {
            for host in 0..self.scenario.nodes() as HostId {
                let Some(running) = self.fleet.running(host).cloned() else {
                    continue;
                };
                match &workload.kind {
                    WorkloadKind::Append { .. } => {
                        workload::read_all(ledger, host, &running, index, &self.parts.streams[&index]).await;
                    }
                    WorkloadKind::Batch(_) => {
                        if self.parts.senders[index].contains(&host) {
                            workload::look_into(ledger, host, &running, index, &workload.name).await;
                        }
                        if let Some(stream) = self.parts.streams.get(&index) {
                            workload::look_through(ledger, host, &running, index, stream).await;
                        }
                    }
                    WorkloadKind::Publish { retain: true, .. } => {
                        workload::last_values(ledger, host, &running, index, &self.parts.patterns[&index]).await;
                    }
                    _ => {}
                }
            }
        }
    }

    fn look_for_panics(&self) -> Result<(), RunError> {
        let Some(host) = self.fleet.panicked() else {
            return Ok(());
        };
        let at = Duration::from_nanos(self.network.now_ns()).as_secs_f64();
        Err(RunError::Failed(format!(
            "a task of node {host} has panicked before {at:.1} virtual seconds; the lines above say where"
        )))
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Start(host) => self.start(host).await,
            Step::Kill(host) => {
                self.down(host);
                self.fleet.kill(host).await;
            }
            Step::PowerCut(host) => {
                self.down(host);
                self.fleet.power_cut(host, SimDisk::power_cut).await;
            }
            Step::TornWrite(host, seed) => {
                self.down(host);
                self.fleet.power_cut(host, |disk| disk.torn_write(seed)).await;
            }
            Step::BitFlip(host, seed) => {
                self.down(host);
                let mut flipped = None;
                let flip = |disk: &SimDisk| {
                    disk.power_cut();
                    flipped = disk.flip_bit(seed);
                };
                self.fleet.power_cut(host, flip).await;
                let what = flipped.unwrap_or_else(|| "nothing: the disk is empty".to_owned());
                self.notes.push(format!("node {host}: flipped {what}"));
            }
            Step::Islands(number, parts) => self.wall(number, Wall::Islands(parts)),
            Step::Apart(number, hosts) => self.wall(number, Wall::Apart(HostSet::of(hosts))),
            Step::OneWay(number, from, to) => {
                self.wall(number, Wall::OneWay(HostSet::of(from), HostSet::of(to)));
            }
            Step::Pause(host) => self.fleet.pause(host, true),
            Step::Resume(host) => self.fleet.pause(host, false),
            Step::Join(number) => {
                if let Some(wall) = self.walls.remove(&number) {
                    self.network.remove_wall(wall);
                }
            }
            Step::Degrade(number, hosts, link) => {
                let degraded = self.network.degrade_links(hosts, link);
                self.walls.insert(number, degraded);
            }
            Step::Restore(number) => {
                if let Some(degraded) = self.walls.remove(&number) {
                    self.network.restore_links(degraded);
                }
            }
            Step::Hang(host, hangs) => {
                let at_ns = self.network.now_ns();
                self.ledger.oracle().hangs(host, hangs, at_ns);
            }
            Step::Skew(host, by_ms) => self.fleet.clock(host).jump(by_ms),
            Step::Full(host, full) => self.fleet.disk(host).fill_up(full),
            Step::Lie(host, lies) => self.fleet.disk(host).lie_about_syncs(lies),
        }
    }

    fn wall(&mut self, number: u64, wall: Wall) {
        let wall = self.network.add_wall(wall);
        self.walls.insert(number, wall);
    }

    fn down(&mut self, host: HostId) {
        if self.fleet.running(host).is_some() {
            self.ledger.oracle().down(host, self.network.now_ns());
        }
    }

    async fn start(&mut self, host: HostId) {
        if self.fleet.running(host).is_some() {
            return;
        }
        let running = match self.fleet.start(host).await {
            Ok(running) => running.clone(),
            Err(error) => {
                self.notes.push(format!("node {host} did not start: {error}"));
                return;
            }
        };
        if self.fleet.has_forgotten(host) {
            // Whether its disk was sound is for the check to weigh.
            self.ledger
                .oracle()
                .broken(format!("node {host} forgot that it is a member"));
        }
        if (host as usize) < self.scenario.nodes() {
            self.ledger.oracle().up(host, self.network.now_ns());
            let receives = |index: &usize| self.parts.receivers[*index].binary_search(&host).is_ok();
            let patterns = self.parts.patterns.clone().into_iter();
            let patterns = patterns.filter(|(index, _)| receives(index)).collect();
            workload::subscribe(&self.ledger, host, &running, &patterns);
            if let Some(looker) = workload::look(&self.ledger, host, &running) {
                self.lookers.insert(host, looker);
            }
            let mut served = BTreeSet::new();
            for (index, workload) in self.scenario.workloads.iter().enumerate() {
                match &workload.kind {
                    WorkloadKind::Call { service, .. } if receives(&index) && served.insert(service) => {
                        workload::serve(&self.ledger, host, &running, service.clone());
                    }
                    WorkloadKind::Batch(batch) => {
                        match &batch.taker {
                            Taker::Service(service) if receives(&index) && served.insert(service) => {
                                workload::serve_batches(&self.ledger, host, &running, service.clone());
                            }
                            Taker::Stream { .. } if receives(&index) => {
                                workload::follow(&self.ledger, host, &running, self.parts.streams[&index].clone());
                            }
                            _ => {}
                        }
                        if self.parts.senders[index].contains(&host) {
                            workload::define(&running, workload.name.clone(), batch);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Makes the stream of a workload; nothing else happens until it is there.
    async fn make(&mut self, index: usize) {
        let senders = self.parts.senders[index]
            .iter()
            .filter_map(|host| self.fleet.running(*host));
        if let Some((_, replicas)) = self.scenario.workloads[index].kind.stream()
            && let Some(running) = senders.into_iter().next().cloned()
        {
            workload::make(running, self.parts.streams[&index].clone(), replicas).await;
        }
    }

    fn send(&mut self, index: usize) {
        let up = |hosts: &[HostId], but: Option<HostId>| -> Vec<HostId> {
            let running = |host: &HostId| self.fleet.running(*host).is_some() && Some(*host) != but;
            hosts.iter().copied().filter(running).collect()
        };
        let senders = up(&self.parts.senders[index], None);
        let Some(sender) = pick(&senders, &mut self.dice) else {
            return;
        };
        let Some(running) = self.fleet.running(sender).cloned() else {
            return;
        };
        let ledger = Arc::clone(&self.ledger);
        match &self.scenario.workloads[index].kind {
            WorkloadKind::Publish { retain, .. } => {
                let subject = match (self.parts.subjects.get(&index), retain) {
                    (Some(subject), true) => below(subject, &sender.to_string()).ok(),
                    (subject, _) => subject.cloned(),
                };
                let Some(subject) = subject else { return };
                let application = running.application.clone();
                let publish = workload::publish(ledger, sender, running, index, subject, *retain);
                application.spawn("publisher", publish);
            }
            WorkloadKind::Append { .. } => {
                let others = up(&self.parts.receivers[index], Some(sender));
                let looker = pick(&others, &mut self.dice).and_then(|host| self.lookers.get(&host).cloned());
                let stream = self.parts.streams[&index].clone();
                let application = running.application.clone();
                let append = workload::append(ledger, sender, running, index, stream, looker);
                application.spawn("appender", append);
            }
            WorkloadKind::Batch(batch) => {
                let queue = self.scenario.workloads[index].name.clone();
                let application = running.application.clone();
                let put = workload::put(ledger, sender, running, index, queue, batch.clone());
                application.spawn("putter", put);
            }
            WorkloadKind::Call { service, timeout, any } => {
                let servers = up(&self.parts.receivers[index], Some(sender));
                let Some(server) = pick(&servers, &mut self.dice) else {
                    return;
                };
                let server = (!any).then(|| self.fleet.peer(server));
                let call = workload::call(
                    ledger,
                    sender,
                    running.clone(),
                    index,
                    service.clone(),
                    server,
                    *timeout,
                );
                running.application.spawn("caller", call);
            }
        }
    }

    async fn sample(&mut self) {
        let (sent, delivered) = self.ledger.oracle().totals();
        let now_ns = self.network.now_ns();
        let look = self
            .sampler
            .look(&self.fleet, &self.network, now_ns, sent, delivered)
            .await;
        self.whole_at_end = look.sample.components <= 1;
        self.attacker_share = look.attacker_share;
        if !self.whole_at_end {
            self.apart_ns = Some(now_ns);
        }
        self.watch.progress(Progress {
            virtual_time: Duration::from_nanos(now_ns),
            nodes_up: look.sample.nodes_up as usize,
            sent,
            delivered,
        });
        self.samples.push(look.sample);
    }
}

/// A subject or a pattern one level below a subject.
fn below<T: FromStr>(subject: &Subject, token: &str) -> Result<T, T::Err> {
    format!("{subject}.{token}").parse()
}

/// One of them; none of none.
fn pick(hosts: &[HostId], dice: &mut u64) -> Option<HostId> {
    let index = split_mix(dice).checked_rem(hosts.len() as u64)?;
    hosts.get(index as usize).copied()
}

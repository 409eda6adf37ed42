//! The run itself: nodes up, then everything that happens in order of time, then the report.
//!
//! Time begins when those nodes that start at once are ready: starting a hundred processes takes a machine its time, which is not
//! the mesh's. One runtime on the calling thread does it all: the processes do the work.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, task::JoinSet, time::Instant};
use weft_protocol::Subject;

use super::{
    Ground,
    fleet::{nodes, oracle},
    folder,
    load::{self, Ledger},
    node::Node,
    outcome::{Findings, report},
    sample::{self, Usage},
};
use crate::{
    chaos::{self, Step},
    report::{Report, Sample},
    run::{Cancel, Progress, RunError, Watch},
    scenario::{Scenario, WorkloadKind},
    topology::{self, Graph},
};

/// Nodes that are started at once.
const STARTING_MAX: usize = 6;
/// For the first node to be ready, and for each that follows: a busy machine is no reason to give up.
const READY_TIME_MAX: Duration = Duration::from_secs(60);
const READY_LOOK: Duration = Duration::from_millis(100);
/// Samples of a run, about.
const SAMPLES: u32 = 60;
const SAMPLE_EVERY_MIN: Duration = Duration::from_secs(1);
/// The role of those of whom the scenario says none, as `weft invite` gives it.
const ROLE_DEFAULT: &str = "member";
/// Requests under way at once.
const SENDING_MAX: usize = 1024;
/// How often it is looked whether to stop, and whether a process died.
const TICK: Duration = Duration::from_millis(250);

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
enum Deed {
    Step(Step),
    Start(usize),
    Send(usize),
    Sample,
}

pub(super) struct Run<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) seed: u64,
    ground: &'a mut dyn Ground,
    pub(super) graph: Graph,
    pub(super) nodes: Vec<Node>,
    pub(super) plan: chaos::Plan,
    pub(super) findings: Findings,
    pub(super) usage: Usage,
    /// Whose gossip neighbours are counted.
    subject: Option<Subject>,
    ledger: Arc<Ledger>,
    /// Tasks that take in messages, by node.
    subscribers: HashMap<usize, JoinSet<()>>,
    sending: JoinSet<()>,
    room: Arc<Semaphore>,
    /// How many of each workload were sent.
    sent: Vec<u64>,
    totals: (u64, u64),
}

/// Runs a scenario with processes on this ground.
pub(crate) fn drive(
    scenario: &Scenario,
    seed: u64,
    binary: &Path,
    ground: &mut dyn Ground,
    watch: Arc<dyn Watch>,
    cancel: &Cancel,
) -> Result<Report, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| RunError::io("cannot start the runtime", error))?;
    folder::sweep();
    let folder = folder::make().map_err(|error| RunError::io("cannot make a folder for the nodes", error))?;
    let graph = topology::make(
        &scenario.topology.kind,
        scenario.nodes(),
        scenario.topology.seed.unwrap_or(seed),
        Path::new(""),
    )?;
    let nodes = nodes(scenario, &graph, ground, binary, folder.path());
    let mut run = Run {
        scenario,
        seed,
        graph,
        nodes,
        plan: chaos::plan(scenario, seed),
        findings: Findings {
            copies: vec![0; scenario.nodes()],
            ..Findings::default()
        },
        subject: scenario.workloads.iter().find_map(|workload| match &workload.kind {
            WorkloadKind::Publish { subject, .. } => subject.parse().ok(),
            WorkloadKind::Call { .. } | WorkloadKind::Append { .. } | WorkloadKind::Batch(_) => None,
        }),
        usage: Usage::default(),
        ledger: Ledger::new(oracle(scenario), seed, scenario.workloads.clone(), HashMap::new()),
        subscribers: HashMap::new(),
        sending: JoinSet::new(),
        room: Arc::new(Semaphore::new(SENDING_MAX)),
        sent: vec![0; scenario.workloads.len()],
        totals: (0, 0),
        ground,
    };
    let report = runtime.block_on(run.whole(&*watch, cancel));
    // Processes first, then their files.
    drop(run);
    drop(runtime);
    report
}

impl Run<'_> {
    async fn whole(&mut self, watch: &dyn Watch, cancel: &Cancel) -> Result<Report, RunError> {
        let began = Instant::now();
        if !self.set_up(cancel).await? {
            self.findings.ended_early = Some("interrupted before all nodes were ready".to_owned());
        }
        let ready_after = began.elapsed();
        self.findings.notes.push(format!(
            "time begins when the first nodes are ready, {:.1} s after the first was started",
            ready_after.as_secs_f64()
        ));
        let peers = self
            .nodes
            .iter()
            .filter_map(|node| Some((node.peer_id.clone()?, node.number as u32)))
            .collect();
        self.ledger = Ledger::new(oracle(self.scenario), self.seed, self.scenario.workloads.clone(), peers);
        for number in 0..self.nodes.len() {
            if self.nodes[number].is_running() {
                self.joined(number)?;
            }
        }
        if self.findings.ended_early.is_none() {
            self.play(watch, cancel).await?;
        }
        self.usage.look(&self.nodes);
        self.findings.notes.extend(self.ground.notes(self.scenario));
        self.findings.wall_seconds = began.elapsed().as_secs_f64();
        self.findings.virtual_seconds = self.ledger.elapsed().as_secs_f64();
        let traffic = self.ground.traffic();
        let mode = self.ground.mode();
        let oracle = self.ledger.oracle().clone();
        Ok(report(self, &oracle, mode, traffic))
    }

    /// Starts every node that starts at once, a few at a time, and waits until they are ready. Whether all are.
    async fn set_up(&mut self, cancel: &Cancel) -> Result<bool, RunError> {
        let group_of = self.scenario.group_of_node();
        let at_once = |number: &usize| {
            self.scenario.fleet[group_of[*number]].start.is_zero()
                && self.scenario.fleet[group_of[*number]].start_over.is_zero()
                && !self.plan.held_back.contains(&(*number as u32))
        };
        // The founder is there before all others, or there would be no mesh to join.
        let mut waiting: Vec<usize> = (1..self.nodes.len()).filter(at_once).rev().collect();
        let mut starting = vec![(0, Instant::now())];
        let mut invited = false;
        self.nodes[0].start(self.ground)?;
        while !starting.is_empty() {
            if cancel.is_cancelled() {
                return Ok(false);
            }
            let mut still = Vec::new();
            for (number, since) in starting {
                if self.is_ready(number).await? {
                    continue;
                }
                if since.elapsed() > READY_TIME_MAX {
                    return Err(RunError::Failed(format!(
                        "node {number} was not ready after {} s: {}",
                        READY_TIME_MAX.as_secs(),
                        self.nodes[number].log_tail()
                    )));
                }
                still.push((number, since));
            }
            starting = still;
            if self.nodes[0].peer_id.is_some() && !invited {
                self.invite().await?;
                invited = true;
            }
            while starting.len() < STARTING_MAX && invited {
                let Some(number) = waiting.pop() else { break };
                self.ground.admit(number, true);
                self.nodes[number].start(self.ground)?;
                starting.push((number, Instant::now()));
            }
            if !starting.is_empty() {
                tokio::time::sleep(READY_LOOK).await;
            }
        }
        Ok(true)
    }

    /// Gives every node a ticket of its group's role, where the mesh is private.
    async fn invite(&mut self) -> Result<(), RunError> {
        if self.scenario.open {
            return Ok(());
        }
        let founder = self.nodes[0].api()?;
        for group in &self.scenario.fleet {
            let role = group.role.as_deref().unwrap_or(ROLE_DEFAULT);
            let ticket = founder.invite(role, group.count).await?;
            for number in self
                .scenario
                .nodes_of(Some(&group.name))
                .into_iter()
                .filter(|number| *number > 0)
            {
                self.nodes[number].add_args(["--join".to_owned(), ticket.clone()]);
            }
        }
        Ok(())
    }

    /// Whether a node that was started is ready; then its id is known, and it serves.
    async fn is_ready(&mut self, number: usize) -> Result<bool, RunError> {
        if let Some(words) = self.nodes[number].ended() {
            return Err(RunError::Failed(words));
        }
        let Some(status) = self.nodes[number].api()?.status().await else {
            return Ok(false);
        };
        if !status.ready || (number > 0 && status.peers == 0) {
            return Ok(false);
        }
        self.nodes[number].peer_id = Some(status.peer_id);
        Ok(true)
    }

    /// A node is up: the oracle knows it, its applications begin.
    fn joined(&mut self, number: usize) -> Result<(), RunError> {
        let node = &mut self.nodes[number];
        let (host, boot) = (number as u32, node.boot);
        let at_ns = if boot == 1 && self.totals == (0, 0) {
            0
        } else {
            self.ledger.now_ns()
        };
        self.ledger.oracle().up(host, at_ns);
        if let Some(peer_id) = &node.peer_id {
            self.ledger.know(peer_id, number);
        }
        node.serve(self.ground)?;
        let api = node.api()?;
        let mut tasks = JoinSet::new();
        for (index, workload) in self.scenario.workloads.iter().enumerate() {
            let is_publish = matches!(workload.kind, WorkloadKind::Publish { .. });
            if is_publish && self.scenario.nodes_of(workload.to.as_deref()).contains(&number) {
                tasks.spawn(load::subscriber(self.ledger.clone(), api.clone(), index, host, boot));
            }
        }
        self.subscribers.insert(number, tasks);
        self.ground.admit(number, false);
        Ok(())
    }

    /// Everything that happens, in order of time.
    async fn play(&mut self, watch: &dyn Watch, cancel: &Cancel) -> Result<(), RunError> {
        let deeds = self.deeds();
        for (at, deed) in deeds {
            loop {
                let left = at.saturating_sub(self.ledger.elapsed());
                if left.is_zero() {
                    break;
                }
                tokio::time::sleep(left.min(TICK)).await;
                while self.sending.try_join_next().is_some() {}
                self.look_after(watch).await?;
                if cancel.is_cancelled() {
                    self.findings.ended_early =
                        Some(format!("interrupted at {:.1} s", self.ledger.elapsed().as_secs_f64()));
                    return Ok(());
                }
            }
            self.carry_out(deed).await?;
        }
        Ok(())
    }

    /// All deeds with their times, in order.
    fn deeds(&self) -> Vec<(Duration, Deed)> {
        let scenario = self.scenario;
        let mut deeds: Vec<(Duration, Deed)> = self
            .plan
            .steps
            .iter()
            .map(|(at_ns, step)| (Duration::from_nanos(*at_ns), Deed::Step(step.clone())))
            .collect();
        for group in &scenario.fleet {
            for (place, number) in scenario.nodes_of(Some(&group.name)).into_iter().enumerate() {
                let at = group.start + group.start_over.mul_f64(place as f64 / group.count.max(1) as f64);
                let held = self.plan.held_back.contains(&(number as u32));
                if !self.nodes[number].is_running() && !held {
                    deeds.push((at, Deed::Start(number)));
                }
            }
        }
        for (index, workload) in scenario.workloads.iter().enumerate() {
            let at = |item: u64| workload.start + Duration::from_secs_f64(item as f64 / workload.per_second);
            deeds.extend((0..workload.planned()).map(|item| (at(item), Deed::Send(index))));
        }
        let every = SAMPLE_EVERY_MIN.max(scenario.duration / SAMPLES);
        let samples = (scenario.duration.as_secs_f64() / every.as_secs_f64()) as u32;
        deeds.extend((0..=samples).map(|n| (every * n, Deed::Sample)));
        deeds.push((scenario.duration, Deed::Sample));
        deeds.sort_by_key(|(at, _)| *at);
        deeds
    }

    async fn carry_out(&mut self, deed: Deed) -> Result<(), RunError> {
        match deed {
            Deed::Send(workload) => self.send(workload).await,
            Deed::Sample => self.sample().await,
            Deed::Start(number) => self.start(number),
            Deed::Step(step) => self.step(&step),
        }
    }

    fn start(&mut self, number: usize) -> Result<(), RunError> {
        if self.nodes[number].boot == 0 {
            self.ground.admit(number, true);
        }
        self.nodes[number].start(self.ground)?;
        // It counts as up from when it is ready; that is looked after.
        self.findings.coming.insert(number);
        Ok(())
    }

    fn crash(&mut self, host: u32) {
        let number = host as usize;
        // Its applications die with it.
        self.subscribers.remove(&number);
        self.nodes[number].kill();
        self.findings.coming.remove(&number);
        let at_ns = self.ledger.now_ns();
        self.ledger.oracle().down(host, at_ns);
    }

    fn step(&mut self, step: &Step) -> Result<(), RunError> {
        match step {
            Step::Kill(host) | Step::PowerCut(host) => self.crash(*host),
            Step::Start(host) => return self.start(*host as usize),
            Step::Pause(host) => self.nodes[*host as usize].pause(true),
            Step::Resume(host) => self.nodes[*host as usize].pause(false),
            other => {
                return self.ground.apply(other).map_err(|error| {
                    RunError::io(
                        format!("cannot do to the links what the scenario says ({other:?})"),
                        error,
                    )
                });
            }
        }
        Ok(())
    }

    /// The next of a workload, from the next sender that runs.
    async fn send(&mut self, workload: usize) -> Result<(), RunError> {
        let of = &self.scenario.workloads[workload];
        let mut senders = self.scenario.nodes_of(of.from.as_deref());
        senders.truncate(of.senders);
        let turn = self.sent[workload] as usize;
        self.sent[workload] += 1;
        let sender = (0..senders.len())
            .map(|off| senders[(turn + off) % senders.len()])
            .find(|number| {
                let node = &self.nodes[*number];
                node.is_running() && !node.paused && !self.findings.coming.contains(number)
            });
        // Nobody is there to send it.
        let Some(sender) = sender else { return Ok(()) };
        let (api, boot) = (self.nodes[sender].api()?, self.nodes[sender].boot);
        let Ok(permit) = self.room.clone().acquire_owned().await else {
            return Ok(());
        };
        let ledger = self.ledger.clone();
        self.sending.spawn(async move {
            load::send(ledger, api, workload, sender as u32, boot).await;
            drop(permit);
        });
        Ok(())
    }

    async fn sample(&mut self) -> Result<(), RunError> {
        self.usage.look(&self.nodes);
        let mut sample: Sample = sample::look(
            &self.nodes,
            &self.ledger,
            self.subject.as_ref(),
            &mut self.findings.copies,
        )
        .await?;
        let totals = self.ledger.oracle().totals();
        sample.sent = totals.0 - self.totals.0;
        sample.delivered = totals.1 - self.totals.1;
        self.totals = totals;
        self.findings.seen(sample);
        Ok(())
    }

    /// Says how far it is; nodes that came up are taken in; one that died by itself is a finding.
    async fn look_after(&mut self, watch: &dyn Watch) -> Result<(), RunError> {
        for number in self.findings.coming.clone() {
            if self.is_ready(number).await? {
                self.findings.coming.remove(&number);
                self.joined(number)?;
            }
        }
        for number in 0..self.nodes.len() {
            if let Some(words) = self.nodes[number].ended() {
                self.crash(number as u32);
                self.findings.deaths.push(words);
            }
        }
        let totals = self.ledger.oracle().totals();
        watch.progress(Progress {
            virtual_time: self.ledger.elapsed(),
            nodes_up: self.nodes.iter().filter(|node| node.is_running()).count(),
            sent: totals.0,
            delivered: totals.1,
        });
        Ok(())
    }
}

//! What a scenario says, after it was read and found possible.
//!
//! Plain data: everything a mode needs to know and nothing of how it does it. Times are from the start of the run.

use std::{collections::BTreeMap, time::Duration};

use super::work::{Check, Workload};

/// One thing to try on a mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Its name, for reports.
    pub name: String,
    /// One sentence on what it shows.
    pub about: String,
    /// The seed, unless the command line gives another.
    pub seed: u64,
    /// How long it lasts, in virtual time.
    pub duration: Duration,
    /// The last part of it, in which no fault begins or lasts and nothing is sent: what broke must heal.
    pub quiet: Duration,
    /// The nodes, by groups.
    pub fleet: Vec<Group>,
    /// Who knows whom, or reaches whom.
    pub topology: Topology,
    /// What the links are like.
    pub links: Links,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// What the applications do.
    pub workloads: Vec<Workload>,
    /// What must hold at the end.
    pub checks: Vec<Check>,
    /// Who means harm.
    pub attacks: Vec<Attack>,
    /// Whether nodes score their gossip neighbours (`mesh.peer_scoring`).
    pub scoring: bool,
    /// What nodes speak with each other over; none: TCP in virtual time, and where processes run both of what they have.
    pub transport: Option<Transport>,
    /// Whether anyone may join the mesh; if not, members have certificates.
    pub open: bool,
    /// The text it was read from, for replay.
    pub source: String,
}

/// What nodes speak with each other over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Streams: what is lost comes late.
    Tcp,
    /// Datagrams: what is lost is gone, and QUIC sees to it.
    Quic,
}

impl Scenario {
    /// The kinds of its workloads, in their order.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> {
        self.workloads.iter().map(|workload| workload.kind.as_str())
    }

    /// Honest nodes of all groups.
    pub fn nodes(&self) -> usize {
        self.fleet.iter().map(|group| group.count).sum()
    }

    /// The group of each node, by the node's number; numbers go through the groups in order.
    pub fn group_of_node(&self) -> Vec<usize> {
        self.fleet
            .iter()
            .enumerate()
            .flat_map(|(index, group)| std::iter::repeat_n(index, group.count))
            .collect()
    }

    /// The numbers of the nodes of a group; of all nodes where none is named.
    pub fn nodes_of(&self, group: Option<&str>) -> Vec<usize> {
        let Some(name) = group else {
            return (0..self.nodes()).collect();
        };
        let groups = self.group_of_node();
        (0..groups.len())
            .filter(|node| self.fleet[groups[*node]].name == name)
            .collect()
    }

    /// When the quiet phase begins.
    pub fn quiet_from(&self) -> Duration {
        self.duration.saturating_sub(self.quiet)
    }
}

/// Nodes that are alike.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Its name, by which faults and workloads refer to it.
    pub name: String,
    /// How many nodes.
    pub count: usize,
    /// The role in their certificates; none: what an invitation gives by default.
    pub role: Option<String>,
    /// Configuration that differs from the default: key (`mesh.connection_target`) and value as text.
    pub config: BTreeMap<String, String>,
    /// Cities the nodes are in, taken in turn. Latency `"cities"` goes by them; empty: spread over all known ones.
    pub cities: Vec<String>,
    /// What stands between the nodes and the others.
    pub nat: Nat,
    /// Which program they run.
    pub version: Version,
    /// How much their calendars are ahead, in milliseconds; negative: behind.
    pub clock_skew_ms: i64,
    /// When the first of them starts.
    pub start: Duration,
    /// Over which time the starts are spread evenly after that.
    pub start_over: Duration,
}

/// What stands between a node and the others: who can dial whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Nat {
    /// Nothing: everybody can dial it.
    #[default]
    None,
    /// A NAT that keeps one port and lets anybody in.
    FullCone,
    /// A NAT that keeps one port and lets in whom the node spoke to: holes can be punched.
    Restricted,
    /// A NAT with another port for each destination: only relays help.
    Symmetric,
}

/// Which program a group runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Version {
    /// This one.
    #[default]
    Current,
    /// One that says it is older: in virtual time the same code under an older version's name.
    Previous,
    /// The binary at a path, for the modes that start processes.
    Binary(String),
}

/// Who knows whom.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// Its shape.
    pub kind: TopologyKind,
    /// What an edge means.
    pub dial: Dial,
    /// Of its own randomness; not set: the run's.
    pub seed: Option<u64>,
}

/// What an edge of the topology means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dial {
    /// Nodes reach each other along the edges and not otherwise.
    #[default]
    Edges,
    /// The edges are the addresses a node knows at the start; it may dial whomever it learns of.
    Anyone,
}

/// The shape of a topology.
#[derive(Debug, Clone, PartialEq)]
pub enum TopologyKind {
    /// Each with the next, the last with the first.
    Ring,
    /// Each with the next.
    Line,
    /// All with the first.
    Star,
    /// Rows and columns.
    Grid {
        /// Columns; not set: as square as possible.
        columns: Option<usize>,
    },
    /// A tree.
    Tree {
        /// Children of a node.
        branching: usize,
    },
    /// All with all.
    Clique,
    /// Random, connected, all with the same degree.
    RandomRegular {
        /// Neighbours of a node.
        degree: usize,
    },
    /// Watts and Strogatz: a ring of near neighbours with some edges rewired.
    SmallWorld {
        /// Neighbours of a node before rewiring; even.
        degree: usize,
        /// The share of edges that is rewired.
        rewire: f64,
    },
    /// Barabási and Albert: newcomers prefer those with many edges.
    ScaleFree {
        /// Edges a newcomer brings.
        attach: usize,
    },
    /// Dense parts with few bridges.
    Islands {
        /// How many parts.
        islands: usize,
        /// Edges between one part and the next.
        bridges: usize,
        /// Neighbours of a node on its island.
        degree: usize,
    },
    /// From a GraphML file.
    File {
        /// Its path, relative to the scenario's file.
        path: String,
    },
}

/// What the links are like, in each direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Links {
    /// All links, unless an entry of `between` says otherwise.
    pub default: Link,
    /// Links between two groups; the last entry that fits counts.
    pub between: Vec<LinkBetween>,
}

/// Links between two groups.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkBetween {
    /// The group that sends; none: any.
    pub from: Option<String>,
    /// The group that receives; none: any.
    pub to: Option<String>,
    /// The other direction too.
    pub both: bool,
    /// What they are like.
    pub link: Link,
}

/// One directed link.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// How long a byte is under way.
    pub latency: Latency,
    /// Added to it at random for each packet, from none to this.
    pub jitter: Duration,
    /// Bits a second; none: without a limit. Packets wait for each other.
    pub bandwidth_bits: Option<u64>,
    /// The share of packets lost: late for streams, gone for datagrams.
    pub loss: f64,
    /// The share of packets that may overtake others.
    pub reorder: f64,
}

/// How long a byte is under way.
#[derive(Debug, Clone, PartialEq)]
pub enum Latency {
    /// The same for all links.
    Constant(Duration),
    /// Drawn once for each pair of nodes.
    Normal {
        /// The middle.
        mean: Duration,
        /// The standard deviation; what falls below a millisecond is one.
        deviation: Duration,
    },
    /// Half the measured round trip between the nodes' cities.
    Cities,
}

/// Something that goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// When it begins.
    pub when: When,
    /// For a fault by rate: when no more come. For one at a time: when it is over.
    pub until: Duration,
    /// How long each of it lasts, for kinds that last; none lasts into the quiet phase.
    pub lasts: Duration,
    /// To whom.
    pub target: Target,
}

/// When a fault happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    /// Once.
    At(Duration),
    /// Again and again, at random, as a Poisson process.
    Rate {
        /// Events a second, on average.
        per_second: f64,
        /// From when on.
        from: Duration,
    },
}

impl When {
    /// When the first of it can happen.
    pub fn start(&self) -> Duration {
        match *self {
            Self::At(at) => at,
            Self::Rate { from, .. } => from,
        }
    }
}

/// Whom a fault meets. Chosen from the seed where it names no nodes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Target {
    /// The nodes of this group; none: all.
    pub group: Option<String>,
    /// These nodes, by number; empty: chosen at random.
    pub nodes: Vec<usize>,
    /// How many of them at a time.
    pub count: usize,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum FaultKind {
    /// Nodes leave without a word and come back after a while with their disks.
    Churn {
        /// How long each is away.
        down: Duration,
    },
    /// The targets are cut from all others, in both directions, and from nobody among themselves.
    Partition,
    /// The mesh falls into parts that do not reach each other.
    Islands {
        /// How many.
        islands: usize,
    },
    /// Processes die, as by `kill -9`.
    Kill {
        /// They are started again after this; none: never.
        restart: Option<Duration>,
    },
    /// Processes stand still and lose nothing, as by SIGSTOP; they go on at the end.
    Pause,
    /// Applications take calls and answer none of them; their nodes go on.
    Hang,
    /// Calendars jump by so many milliseconds, and back at the end.
    Skew {
        /// Ahead; negative: back.
        by_ms: i64,
    },
    /// The targets start at this time, all at once, and not before.
    FlashCrowd,
    /// Everything from one group to another is lost, in this direction only.
    Cut {
        /// The group that is not heard; none: any.
        from: Option<String>,
        /// The group that does not hear; none: any.
        to: Option<String>,
    },
    /// The links of the targets get worse.
    Degrade {
        /// What they are like meanwhile.
        link: Link,
    },
    /// Writes fail: no space left.
    DiskFull,
    /// Syncing says it succeeded and did not; what was lost is seen at the crash that follows at the end.
    LostFsync,
    /// The process dies and the last write to its disk is there in part.
    TornWrite,
    /// The process dies, and a bit of what its disk holds is another one.
    BitFlip,
}

impl FaultKind {
    /// The word for it in a scenario.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Churn { .. } => "churn",
            Self::Partition => "partition",
            Self::Islands { .. } => "islands",
            Self::Kill { .. } => "kill",
            Self::Pause => "pause",
            Self::Hang => "hang",
            Self::Skew { .. } => "skew",
            Self::FlashCrowd => "flash-crowd",
            Self::Cut { .. } => "cut",
            Self::Degrade { .. } => "degrade",
            Self::DiskFull => "disk-full",
            Self::LostFsync => "lost-fsync",
            Self::TornWrite => "torn-write",
            Self::BitFlip => "bit-flip",
        }
    }
}

/// Someone who means harm; attackers are nodes besides those of the fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct Attack {
    /// How.
    pub kind: AttackKind,
    /// How many attackers.
    pub attackers: usize,
    /// When they begin.
    pub at: Duration,
    /// When they stop.
    pub until: Duration,
    /// The node they mean; none where they mean the mesh.
    pub victim: Option<usize>,
    /// Connections each attacker makes to honest nodes.
    pub connections: usize,
    /// Gossip's rules mean nothing to them: they graft whatever the backoff and the degree, promise what they do not have, and
    /// answer no question.
    pub breaks_rules: bool,
}

/// The attacks of the gossipsub v1.1 evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttackKind {
    /// Attackers join as many meshes as they can and forward nothing.
    Sybil,
    /// All neighbours of the victim are attackers who forward nothing.
    Eclipse,
    /// Attackers are there before the honest nodes start.
    ColdBoot,
    /// Attackers connect at once and forward nothing from the start.
    Flash,
    /// Attackers behave well for a while and stop forwarding all at once.
    CovertFlash,
    /// Attackers forward everything but what the victim publishes.
    Censor,
    /// Attackers forward late and in part.
    Degrade,
}

impl AttackKind {
    /// The word for it in a scenario.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sybil => "sybil",
            Self::Eclipse => "eclipse",
            Self::ColdBoot => "cold-boot",
            Self::Flash => "flash",
            Self::CovertFlash => "covert-flash",
            Self::Censor => "censor",
            Self::Degrade => "degrade",
        }
    }
}

impl TopologyKind {
    /// The word for it in a scenario and on the command line.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Line => "line",
            Self::Star => "star",
            Self::Grid { .. } => "grid",
            Self::Tree { .. } => "tree",
            Self::Clique => "clique",
            Self::RandomRegular { .. } => "random-regular",
            Self::SmallWorld { .. } => "small-world",
            Self::ScaleFree { .. } => "scale-free",
            Self::Islands { .. } => "islands",
            Self::File { .. } => "file",
        }
    }
}

//! Who offers what, as the records say, kept decoded for as long as they do not change.
//!
//! Made at the first call of a node, and made anew at the first call after a record changed: a node that calls nobody has none.
//! What was learned of an instance stays with it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use semver::{Version, VersionReq};
use tokio::sync::watch;
use weft_protocol::{
    PeerId, Wire as _,
    patterns::request_response::{ANNOUNCEMENT_KEY, ServiceInfo, ServiceList},
};

use super::{health::Health, registry::Registry};
use crate::mesh::Mesh;

/// An instance of a service, and what this node has learned of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) peer: PeerId,
    pub(super) info: ServiceInfo,
    pub(super) is_local: bool,
    pub(super) version: Option<Version>,
    pub(super) health: Arc<Health>,
}

type ByName = BTreeMap<String, Vec<Arc<Entry>>>;

#[derive(Default)]
struct Cached {
    /// Tells when the records have changed; nothing before the first look.
    records: Option<watch::Receiver<u64>>,
    /// The registry's count when this was made.
    local_changes: u64,
    by_name: Arc<ByName>,
}

/// See the module.
pub(super) struct Catalogue {
    mesh: Mesh,
    registry: Arc<Registry>,
    cached: Mutex<Cached>,
}

impl Catalogue {
    pub(super) fn new(mesh: Mesh, registry: Arc<Registry>) -> Self {
        Catalogue {
            mesh,
            registry,
            cached: Mutex::default(),
        }
    }

    /// Every instance that is known, by the name of its service; those of this node first.
    pub(super) fn all(&self) -> Arc<ByName> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let local_changes = self.registry.changes();
        let is_fresh = cached
            .records
            .as_mut()
            .is_some_and(|r| !r.has_changed().unwrap_or(true));
        if is_fresh && cached.local_changes == local_changes {
            return Arc::clone(&cached.by_name);
        }
        let records = cached.records.get_or_insert_with(|| self.mesh.trust().watch_records());
        records.mark_unchanged();
        cached.local_changes = local_changes;
        cached.by_name = Arc::new(self.read(&cached.by_name));
        Arc::clone(&cached.by_name)
    }

    fn read(&self, before: &ByName) -> ByName {
        let known: HashMap<(PeerId, &str), &Arc<Entry>> = before
            .values()
            .flatten()
            .map(|entry| ((entry.peer, entry.info.id.as_str()), entry))
            .collect();
        let local = self.mesh.local_peer();
        let own = self.registry.offered().into_iter().map(|info| (local, info));
        let others = self.mesh.trust().announcements(ANNOUNCEMENT_KEY);
        let others = others.into_iter().filter(|(peer, _)| *peer != local);
        let others = others.filter_map(|(peer, bytes)| Some((peer, ServiceList::from_bytes(&bytes).ok()?)));
        let others = others.flat_map(|(peer, list)| list.0.into_iter().map(move |info| (peer, info)));
        let mut by_name = ByName::new();
        for (peer, info) in own.chain(others) {
            let entry = match known.get(&(peer, info.id.as_str())) {
                Some(entry) if entry.info == info => Arc::clone(entry),
                known => Arc::new(Entry {
                    peer,
                    is_local: peer == local,
                    version: Version::parse(&info.version).ok(),
                    health: known.map(|entry| Arc::clone(&entry.health)).unwrap_or_default(),
                    info,
                }),
            };
            by_name.entry(entry.info.name.clone()).or_default().push(entry);
        }
        by_name
    }
}

/// What a caller wants of an instance.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) endpoint: String,
    pub(super) node: Option<PeerId>,
    pub(super) instance: Option<String>,
    pub(super) version: Option<VersionReq>,
}

impl Wanted {
    /// Whether an instance will do, for something new.
    pub(super) fn fits(&self, entry: &Entry) -> bool {
        !entry.info.is_draining()
            && entry.info.endpoint(&self.endpoint).is_some()
            && self.node.is_none_or(|node| node == entry.peer)
            && self.instance.as_ref().is_none_or(|id| *id == entry.info.id)
            && self.version.as_ref().is_none_or(|wanted| {
                let has = entry.version.as_ref();
                has.is_some_and(|version| wanted.matches(version))
            })
    }
}

//! Whether values make sense, alone and together. Types have been checked before; here are ranges and contradictions.

use std::{collections::BTreeSet, fmt::Display, time::Duration};

use tracing_subscriber::EnvFilter;
use weft_protocol::{
    DecodeError, Multiaddr, limits::PUBLISH_BODY_BYTES_MAX, name::check_name, patterns::nats::check_address,
};

use super::{
    Config, ConfigError,
    value::{ByteSize, Toggle, format_duration, shorten},
};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Addresses in one list.
const ADDRESSES_MAX: usize = 64;

/// Everything that is wrong with the values of a configuration.
pub(super) fn check(config: &Config) -> Vec<ConfigError> {
    let mut check = Check {
        config,
        errors: Vec::new(),
    };
    check.node();
    check.mesh_addresses();
    check.mesh_connections();
    check.mesh_relay();
    check.trust();
    check.store();
    check.blobs();
    check.api();
    check.api_bounds();
    check.nats();
    check.limits();
    check.errors
}

struct Check<'a> {
    config: &'a Config,
    errors: Vec<ConfigError>,
}

impl Check<'_> {
    fn wrong(&mut self, key: &str, reason: String) {
        self.errors.push(ConfigError::Value {
            origin: self.config.origin(key).clone(),
            key: key.into(),
            reason,
        });
    }

    fn range<T: PartialOrd + Copy>(&mut self, key: &str, value: T, (min, max): (T, T), show: impl Fn(T) -> String) {
        if value < min || value > max {
            self.wrong(
                key,
                format!("must be from {} to {}, not {}", show(min), show(max), show(value)),
            );
        }
    }

    fn count(&mut self, key: &str, value: u32, range: (u32, u32)) {
        self.range(key, value, range, |n| n.to_string());
    }

    fn duration(&mut self, key: &str, value: Duration, range: (Duration, Duration)) {
        self.range(key, value, range, format_duration);
    }

    fn size(&mut self, key: &str, value: ByteSize, range: (ByteSize, ByteSize)) {
        self.range(key, value, range, |size| size.to_string());
    }

    fn misnamed(&mut self, key: &str, error: &DecodeError) {
        self.wrong(key, format!("is not a name: {error}"));
    }

    fn at_most<T: PartialOrd + Display>(&mut self, (key, value): (&str, T), (other, limit): (&str, T)) {
        if value > limit {
            self.wrong(key, format!("must not be more than {other} ({limit}), is {value}"));
        }
    }

    fn node(&mut self) {
        let node = &self.config.node;
        if let Some(Err(error)) = node.name.as_deref().map(|name| check_name("name", name)) {
            self.misnamed("node.name", &error);
        }
        if let Some(Err(error)) = node.zone.as_deref().map(|zone| check_name("zone", zone)) {
            self.misnamed("node.zone", &error);
        }
    }

    fn mesh_addresses(&mut self) {
        let mesh = &self.config.mesh;
        for (key, list) in [
            ("listen", &mesh.listen),
            ("bootstrap", &mesh.bootstrap),
            ("external", &mesh.external),
        ] {
            let key = format!("mesh.{key}");
            if list.len() > ADDRESSES_MAX {
                self.wrong(&key, format!("has {} addresses, more than {ADDRESSES_MAX}", list.len()));
            }
            let mut seen = BTreeSet::new();
            for address in list.iter().filter(|address| !seen.insert(address.to_vec())) {
                self.wrong(&key, format!("names {address} twice"));
            }
            for _ in list.iter().filter(|address| address.is_empty()) {
                self.wrong(&key, "has an empty address".into());
            }
        }
        for address in mesh.listen.iter().filter(|address| ends_in_peer(address)) {
            self.wrong("mesh.listen", format!("must not name a peer: {address}"));
        }
        if !mesh.insecure_bootstrap {
            for address in mesh.bootstrap.iter().filter(|address| !ends_in_peer(address)) {
                let reason = format!("must end in /p2p/ID, so that no one else can answer there: {address}");
                self.wrong("mesh.bootstrap", reason);
            }
        }
    }

    fn mesh_connections(&mut self) {
        let mesh = &self.config.mesh;
        self.count("mesh.connections_max", mesh.connections_max, (2, 100_000));
        for (key, value) in [
            ("mesh.connections_per_ip_max", mesh.connections_per_ip_max),
            ("mesh.connections_per_subnet_max", mesh.connections_per_subnet_max),
        ] {
            self.count(key, value, (1, 100_000));
        }
        let limit = ("mesh.connections_max", mesh.connections_max);
        self.at_most(("mesh.connection_target", mesh.connection_target), limit);
        let limit = ("mesh.connections_per_subnet_max", mesh.connections_per_subnet_max);
        self.at_most(("mesh.connections_per_ip_max", mesh.connections_per_ip_max), limit);
    }

    fn mesh_relay(&mut self) {
        let mesh = &self.config.mesh;
        self.duration(
            "mesh.relay_circuit_duration_max",
            mesh.relay_circuit_duration_max,
            (10 * SECOND, YEAR),
        );
        for (key, value) in [
            ("mesh.relay_circuits_max", mesh.relay_circuits_max),
            ("mesh.relay_circuits_per_peer_max", mesh.relay_circuits_per_peer_max),
            ("mesh.relay_reservations_max", mesh.relay_reservations_max),
        ] {
            self.count(key, value, (1, 100_000));
        }
        self.count("mesh.relay_reservations_target", mesh.relay_reservations_target, (0, 8));
    }

    fn trust(&mut self) {
        let trust = &self.config.trust;
        self.duration("trust.certificate_ttl", trust.certificate_ttl, (SECOND, 10 * YEAR));
        self.count("trust.directory_max", trust.directory_max, (16, 1_000_000));
    }

    fn store(&mut self) {
        let store = &self.config.store;
        self.size(
            "store.cache_bytes",
            store.cache_bytes,
            (ByteSize::mib(1), ByteSize::gib(1024)),
        );
        self.size(
            "store.segment_bytes",
            store.segment_bytes,
            (ByteSize::kib(64), ByteSize::gib(16)),
        );
        let limit = ("limits.memory_budget_bytes", self.config.limits.memory_budget_bytes);
        self.at_most(("store.cache_bytes", store.cache_bytes), limit);
    }

    fn blobs(&mut self) {
        let blobs = &self.config.blobs;
        self.size(
            "blobs.bytes_max",
            blobs.bytes_max,
            (ByteSize::mib(1), ByteSize::gib(1024 * 1024)),
        );
        self.duration("blobs.keep", blobs.keep, (HOUR / 6, YEAR));
    }

    fn api(&mut self) {
        let api = &self.config.api;
        if !api.listen.ip().is_loopback() && !api.remote {
            let reason = format!(
                "must be a loopback address, not {}, unless api.remote is true",
                api.listen.ip()
            );
            self.wrong("api.listen", reason);
        }
        if api.socket.as_ref().is_some_and(|path| !path.is_absolute()) {
            self.wrong("api.socket", "must be an absolute path".into());
        }
        for host in api.hosts.iter().filter(|host| !is_host(host)) {
            self.wrong(
                "api.hosts",
                format!(
                    "has {}, which is not a host name or address without a port",
                    shorten(host)
                ),
            );
        }
        for origin in api.origins.iter().filter(|origin| !is_origin(origin)) {
            let reason = format!(
                "has {}, which is not of the form \"https://host\" or \"https://host:port\"",
                shorten(origin)
            );
            self.wrong("api.origins", reason);
        }
    }

    fn api_bounds(&mut self) {
        let api = &self.config.api;
        self.count("api.connections_max", api.connections_max, (1, 65_536));
        // hyper refuses less than 8 KiB.
        self.size(
            "api.header_bytes_max",
            api.header_bytes_max,
            (ByteSize::kib(8), ByteSize::mib(1)),
        );
        self.size(
            "api.body_bytes_max",
            api.body_bytes_max,
            (ByteSize::kib(1), ByteSize::gib(1)),
        );
        for (key, value) in [
            ("api.header_timeout", api.header_timeout),
            ("api.body_timeout", api.body_timeout),
            ("api.write_timeout", api.write_timeout),
            ("api.idle_timeout", api.idle_timeout),
        ] {
            self.duration(key, value, (10 * MILLISECOND, HOUR));
        }
    }

    fn nats(&mut self) {
        let nats = &self.config.nats;
        if nats.listen.is_some_and(|address| !address.ip().is_loopback()) && nats.credentials.is_none() {
            let reason = "must be a loopback address, such as 127.0.0.1:4222, unless nats.credentials names a file with the credentials clients need";
            self.wrong("nats.listen", reason.into());
        }
        for (key, path) in [
            ("nats.credentials", &nats.credentials),
            ("nats.tls_certificate", &nats.tls_certificate),
            ("nats.tls_key", &nats.tls_key),
            ("nats.tls_client_authorities", &nats.tls_client_authorities),
        ] {
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                self.wrong(key, "must be an absolute path".into());
            }
        }
        if nats.tls_certificate.is_some() != nats.tls_key.is_some() {
            self.wrong("nats.tls_key", "must be set together with nats.tls_certificate".into());
        }
        if let Some(Err(error)) = nats.advertise.as_deref().map(check_address) {
            self.wrong("nats.advertise", format!("{error}"));
        }
        if nats.tls_certificate.is_none() {
            let reason = || "does nothing without nats.tls_certificate".into();
            if nats.tls_client_authorities.is_some() {
                self.wrong("nats.tls_client_authorities", reason());
            }
            if nats.tls_first != Toggle::Off {
                self.wrong("nats.tls_first", reason());
            }
        }
        self.count("nats.connections_max", nats.connections_max, (1, 65_536));
        self.count("nats.subscriptions_max", nats.subscriptions_max, (1, 10_000_000));
        let payload_max = ByteSize::kib(PUBLISH_BODY_BYTES_MAX as u64 >> 10);
        self.size(
            "nats.payload_bytes_max",
            nats.payload_bytes_max,
            (ByteSize::kib(8), payload_max),
        );
        let bounds = (ByteSize::mib(2), ByteSize::gib(64));
        self.size("nats.pending_bytes_max", nats.pending_bytes_max, bounds);
        self.size("nats.pending_bytes_total_max", nats.pending_bytes_total_max, bounds);
        let limit = ("nats.pending_bytes_total_max", nats.pending_bytes_total_max);
        self.at_most(("nats.pending_bytes_max", nats.pending_bytes_max), limit);
        for (key, value) in [
            ("nats.auth_timeout", nats.auth_timeout),
            ("nats.write_timeout", nats.write_timeout),
            ("nats.ping_interval", nats.ping_interval),
            ("nats.lame_duck", nats.lame_duck),
        ] {
            self.duration(key, value, (10 * MILLISECOND, HOUR));
        }
    }

    fn limits(&mut self) {
        let limits = &self.config.limits;
        self.size(
            "limits.memory_budget_bytes",
            limits.memory_budget_bytes,
            (ByteSize::mib(32), ByteSize::gib(1024)),
        );
        if let Err(error) = EnvFilter::try_new(&self.config.telemetry.log) {
            self.wrong("telemetry.log", format!("is not a log filter: {error}"));
        }
    }
}

fn ends_in_peer(address: &Multiaddr) -> bool {
    address.iter().last().is_some_and(|part| part.tag() == "p2p")
}

fn is_host(text: &str) -> bool {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bare {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !text.is_empty()
                && text.len() <= 253
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        }
    }
}

fn is_origin(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return false;
    };
    match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => is_host(host) && port.parse::<u16>().is_ok(),
        _ => is_host(rest),
    }
}

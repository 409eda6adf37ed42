//! From configuration and flags to what the modules are told.

use std::path::Path;

use weft_protocol::{Multiaddr, Ticket};

use crate::{
    cli::run::RunArgs,
    config::{Config, Sources, TelemetryConfig, Toggle},
    error::NodeError,
    mesh::{MeshConfig, RelayConfig, RelayUse, SourceLimits, peer_of},
    patterns::blobs::BlobOptions,
};

/// What this software calls itself to others.
pub(super) const AGENT: &str = concat!("weft/", env!("CARGO_PKG_VERSION"));

/// Asks the system for small pages. The allocator keeps some memory for each thread, of which there are more when the disk is used; in
/// huge pages that is three times as much, and makes no call or message faster.
pub(super) fn prefer_small_pages() {
    // Only more memory is taken where this is not possible.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// File, then environment, then flags.
pub(super) fn sources(dir: &Path, args: &RunArgs) -> Sources {
    let file = args.config.clone();
    let sources = match file {
        Some(file) => Sources::new().file(file),
        None => Sources::new().file_if_present(super::config_file(dir)),
    };
    let yes = |flag: bool, value: &str| flag.then(|| value.to_owned());
    sources
        .environment(std::env::vars_os())
        .flag("--listen", "mesh.listen", args.listen.clone())
        .flag("--bootstrap", "mesh.bootstrap", args.bootstrap.clone())
        .flag("--external", "mesh.external", args.external.clone())
        .flag("--api", "api.listen", args.api.clone())
        .flag("--nats", "nats.listen", args.nats.clone())
        .flag("--name", "node.name", args.name.clone())
        .flag("--log", "telemetry.log", args.log.clone())
        .flag("--no-mdns", "mesh.mdns", yes(args.no_mdns, "false"))
        .flag(
            "--insecure-bootstrap",
            "mesh.insecure_bootstrap",
            yes(args.insecure_bootstrap, "true"),
        )
        .flag(
            "--memory-budget",
            "limits.memory_budget_bytes",
            args.memory_budget.map(|n| n.to_string()),
        )
}

/// `-v` means more than the configuration says.
pub(super) fn telemetry(config: &Config, verbose: u8) -> TelemetryConfig {
    let mut telemetry = config.telemetry.clone();
    match verbose {
        0 => {}
        1 => telemetry.log = "weft_node=debug,info".to_owned(),
        _ => telemetry.log = "weft_node=trace,debug".to_owned(),
    }
    telemetry
}

/// How much of what is too large for messages is kept.
pub(super) fn blobs(config: &Config) -> BlobOptions {
    BlobOptions {
        bytes_max: config.blobs.bytes_max.bytes(),
        keep: config.blobs.keep,
    }
}

/// What the mesh is told.
///
/// # Errors
/// `Invalid` for a bootstrap address that does not say whom to expect there.
pub fn mesh(config: &Config, name: &str, ticket: Option<Ticket>) -> Result<MeshConfig, NodeError> {
    let mesh = &config.mesh;
    let nameless: Vec<&Multiaddr> = mesh.bootstrap.iter().filter(|a| peer_of(a).is_none()).collect();
    if let Some(address) = nameless.first().filter(|_| !mesh.insecure_bootstrap) {
        return Err(NodeError::invalid(format!("the bootstrap address {address} does not end in /p2p/ID"))
            .with_hint("without the id anybody could answer there; take the whole line from the other node's screen, or dare --insecure-bootstrap"));
    }
    Ok(MeshConfig {
        name: name.to_owned(),
        zone: config.node.zone.clone(),
        agent: AGENT.to_owned(),
        listen: mesh.listen.clone(),
        listen_explicit: config.listen_explicit(),
        bootstrap: mesh.bootstrap.clone(),
        external: mesh.external.clone(),
        ticket,
        mdns: mesh.mdns,
        upnp: mesh.upnp,
        hole_punching: mesh.hole_punching,
        relay: RelayConfig {
            server: mesh.relay_server != Toggle::Off,
            server_always: mesh.relay_server == Toggle::On,
            client: match mesh.relay_client {
                Toggle::Auto => RelayUse::Auto,
                Toggle::On => RelayUse::On,
                Toggle::Off => RelayUse::Off,
            },
            reservations: mesh.relay_reservations_target as usize,
            reservations_max: mesh.relay_reservations_max as usize,
            circuits_max: mesh.relay_circuits_max as usize,
            circuits_per_peer_max: mesh.relay_circuits_per_peer_max as usize,
            circuit_duration: mesh.relay_circuit_duration_max,
            circuit_bytes_max: mesh.relay_circuit_bytes_max.bytes(),
        },
        connections_max: mesh.connections_max,
        connection_target: mesh.connection_target as usize,
        sources: SourceLimits {
            connections_per_ip_max: mesh.connections_per_ip_max as usize,
            connections_per_subnet_max: mesh.connections_per_subnet_max as usize,
        },
        memory_budget_bytes: config.limits.memory_budget_bytes.as_len(),
        dht: true,
        peer_scoring: match mesh.peer_scoring {
            Toggle::Auto => None,
            Toggle::On => Some(true),
            Toggle::Off => Some(false),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_configuration_and_one_without_a_file_are_the_same() {
        assert_eq!(
            mesh(&Config::default(), "alpha", None).unwrap(),
            MeshConfig::new("alpha")
        );
    }

    #[test]
    fn more_words_are_an_order_of_the_command_line() {
        let config = Config::default();
        assert_eq!(telemetry(&config, 0).log, config.telemetry.log);
        assert_ne!(telemetry(&config, 1).log, telemetry(&config, 2).log);
    }
}

//! For Kubernetes: plain manifests, of no operator and no mesh of its own.

use std::fmt::Write;

use super::{File, Plan, bullets, left_out, load_script};
use crate::{scenario::Scenario, topology::TopologyError};

/// A folder for `kubectl apply -k`: a StatefulSet for each group, one ConfigMap, one headless Service.
///
/// # Errors
/// [`TopologyError`] when the topology cannot be made.
pub fn kubernetes(scenario: &Scenario, seed: u64) -> Result<Vec<File>, TopologyError> {
    let plan = Plan::new(scenario, seed)?;
    let mut text = String::new();
    write_service(&mut text).expect("invariant: writing to a string does not fail");
    let mut sets = String::new();
    for group in 0..scenario.fleet.len() {
        write_set(&mut sets, scenario, group).expect("invariant: writing to a string does not fail");
    }
    let mut map = String::new();
    write_config_map(&mut map, &plan).expect("invariant: writing to a string does not fail");
    let file = |name: &str, text: String| File {
        name: name.to_owned(),
        text,
    };
    Ok(vec![
        file(
            "kustomization.yaml",
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n- service.yaml\n- configmap.yaml\n- statefulsets.yaml\n\
             # The image of your registry:\nimages:\n- name: weft\n  newName: weft\n  newTag: latest\n"
                .to_owned(),
        ),
        file("service.yaml", text),
        file("configmap.yaml", map),
        file("statefulsets.yaml", sets),
        file("README.md", readme(scenario)),
    ])
}

fn write_service(yaml: &mut String) -> std::fmt::Result {
    writeln!(
        yaml,
        "# Headless: it only gives every pod its name, ready or not, because nodes find each other to become ready.\n\
         apiVersion: v1\nkind: Service\nmetadata:\n  name: weft\n  labels:\n    app: weft\nspec:\n  clusterIP: None\n  publishNotReadyAddresses: true\n  \
         selector:\n    app: weft\n  ports:\n  - name: tcp\n    port: 7400\n    protocol: TCP\n  - name: quic\n    port: 7400\n    protocol: UDP"
    )
}

/// The pod of a node: `weft-GROUP-ORDINAL`.
fn pod(plan: &Plan<'_>, node: usize) -> String {
    let group = &plan.scenario.fleet[plan.group_of[node]];
    let first = plan
        .group_of
        .iter()
        .position(|of| *of == plan.group_of[node])
        .unwrap_or(0);
    format!("weft-{}-{}", label(&group.name), node - first)
}

/// A group's name as a DNS label.
fn label(name: &str) -> String {
    name.replace(['_', '.'], "-").trim_matches('-').to_owned()
}

fn write_config_map(yaml: &mut String, plan: &Plan<'_>) -> std::fmt::Result {
    writeln!(
        yaml,
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: weft\n  labels:\n    app: weft\ndata:"
    )?;
    writeln!(
        yaml,
        "  start.sh: |\n    #!/bin/sh\n    # A node: its neighbours are in the file of its name, its configuration in that of its group.\n    set -eu\n    \
         pod=$(hostname)\n    group=${{pod%-*}}\n    set --\n    while read -r way; do\n      set -- \"$@\" --bootstrap \"/dns4/$way.weft/tcp/7400\"\n    done <\"/config/ways-$pod\"\n    \
         if [ $# -eq 0 ]; then set -- --open; else set -- \"$@\" --insecure-bootstrap; fi\n    \
         cd /data\n    if [ -f \"/config/load-$pod.sh\" ]; then sh \"/config/load-$pod.sh\" & fi\n    \
         exec weft --data-dir /data/weft run --config \"/config/$group.toml\" --name \"$pod\" --no-mdns --external \"/dns4/$pod.weft/tcp/7400\" \"$@\""
    )?;
    for (group, members) in plan.scenario.fleet.iter().enumerate() {
        writeln!(yaml, "  weft-{}.toml: |", label(&members.name))?;
        let config = plan.config(group);
        let config = if config.is_empty() {
            "# Nothing but the defaults.\n".to_owned()
        } else {
            config
        };
        indented(yaml, &config)?;
    }
    for node in 0..plan.scenario.nodes() {
        let ways: Vec<String> = plan.ways_in(node).iter().map(|way| pod(plan, *way)).collect();
        writeln!(yaml, "  ways-{}: |", pod(plan, node))?;
        indented(yaml, &format!("{}\n", ways.join("\n")))?;
        if let Some(script) = load_script(plan, node, "weft --data-dir /data/weft") {
            writeln!(yaml, "  load-{}.sh: |", pod(plan, node))?;
            indented(yaml, &script)?;
        }
    }
    Ok(())
}

fn indented(yaml: &mut String, text: &str) -> std::fmt::Result {
    text.lines()
        .filter(|line| !line.is_empty())
        .try_for_each(|line| writeln!(yaml, "    {line}"))
}

fn write_set(yaml: &mut String, scenario: &Scenario, group: usize) -> std::fmt::Result {
    let members = &scenario.fleet[group];
    let name = format!("weft-{}", label(&members.name));
    writeln!(
        yaml,
        "---\napiVersion: apps/v1\nkind: StatefulSet\nmetadata:\n  name: {name}\n  labels:\n    app: weft\n    group: {group}\nspec:\n  \
         serviceName: weft\n  replicas: {count}\n  podManagementPolicy: Parallel\n  selector:\n    matchLabels:\n      app: weft\n      group: {group}\n  \
         template:\n    metadata:\n      labels:\n        app: weft\n        group: {group}\n    spec:\n      terminationGracePeriodSeconds: 15\n      \
         securityContext:\n        runAsNonRoot: true\n        runAsUser: 1000\n        fsGroup: 1000\n      containers:\n      - name: weft\n        image: weft\n        \
         command: [sh, /config/start.sh]\n        env:\n        - name: HOME\n          value: /data\n        ports:\n        - containerPort: 7400\n          protocol: TCP\n        \
         - containerPort: 7400\n          protocol: UDP\n        readinessProbe:\n          exec:\n            command: [weft, --data-dir, /data/weft, status]\n          periodSeconds: 5\n        \
         resources:\n          requests:\n            memory: 64Mi\n            cpu: 20m\n          limits:\n            memory: 512Mi\n        volumeMounts:\n        \
         - name: data\n          mountPath: /data\n        - name: config\n          mountPath: /config\n      volumes:\n      - name: config\n        configMap:\n          name: weft\n  \
         volumeClaimTemplates:\n  - metadata:\n      name: data\n    spec:\n      accessModes: [ReadWriteOnce]\n      resources:\n        requests:\n          storage: 1Gi",
        group = label(&members.name),
        count = members.count,
    )
}

fn readme(scenario: &Scenario) -> String {
    let mut left = left_out(scenario, false);
    left.push("latency, loss and bandwidth of the links: they are the cluster's".into());
    left.push("that groups start later, or over a time: all pods start at once".into());
    let load_bytes = 1_048_576;
    format!(
        "# {} for Kubernetes\n\n{}\n\n```sh\n# an image `weft` with the program on PATH and a shell; see kustomization.yaml for your registry\nkubectl apply -k .\n\
         kubectl rollout status statefulset -l app=weft\nkubectl exec weft-{}-0 -- weft --data-dir /data/weft peers\n\
         kubectl delete pod weft-{}-0 --grace-period=0 --force     # a kill\nkubectl delete -k . && kubectl delete pvc -l app=weft\n```\n\n\
         What a node's part in the workloads came to is in its `/data`: `messages.log`, `sent.log`, `called.log`. Bodies are cut at 1 KiB. The ConfigMap must stay\n\
         below {load_bytes} bytes; a fleet of several hundred nodes needs it split.\n\n## Not carried\n\n{}",
        scenario.name,
        scenario.about,
        label(&scenario.fleet[0].name),
        label(&scenario.fleet[0].name),
        bullets(&left)
    )
}

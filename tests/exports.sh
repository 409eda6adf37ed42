#!/usr/bin/env bash
# What `weft-sim export kubernetes` writes for the shipped scenarios, held against Kubernetes' own tools and schemas.
# Needs kubectl (no cluster) and kubernetes-validate (`pip install kubernetes-validate`). Ends with 1 when something is wrong.
# WEFT_SIM names the program.
set -u -o pipefail
cd "$(dirname "$0")/.."

sim="${WEFT_SIM:-${CARGO_TARGET_DIR:-$PWD/target}/debug/weft-sim}"
for tool in "$sim" kubectl kubernetes-validate; do
    command -v "$tool" >/dev/null || { echo "there is no $tool: see the head of this script" >&2; exit 2; }
done
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0
for scenario in hello churn wan relay-island upgrade; do
    if "$sim" export kubernetes "$scenario" --out "$folder/$scenario" --quiet &&
        kubectl kustomize "$folder/$scenario" >"$folder/$scenario.yaml" &&
        kubernetes-validate --strict --quiet "$folder/$scenario.yaml"; then
        echo "$scenario: fine"
    else
        echo "$scenario: wrong"
        failed=1
    fi
done
exit "$failed"

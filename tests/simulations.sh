#!/usr/bin/env bash
# Shipped scenarios in virtual time, each with fixed seeds, on all cores. Ends with 1 when one failed; every failing seed is
# there with the command that runs it again.
#   tests/simulations.sh            fixed seeds, what CI runs (three minutes on two slow cores, as tests/run builds it)
#   tests/simulations.sh 1..100     the same scenarios with each of these seeds
# WEFT_SIM names the program; a release build is several times faster.
set -u -o pipefail
cd "$(dirname "$0")/.."

sim="${WEFT_SIM:-${CARGO_TARGET_DIR:-$PWD/target}/debug/weft-sim}"
[ -x "$sim" ] || { echo "there is no $sim: cargo build -p weft-sim first, or set WEFT_SIM" >&2; exit 2; }

# Scenario and seeds. Those that take long have one.
fixed="hello=1 islands=1..4 churn=1..3 power-cut=1..8 repair=1..4 upgrade=1..2 slow-link=1 datagrams=1..2 relay-island=1..2 wan=1 sites=1..6 cold-boot=1 eclipse=1 censor=1 services=1 breaker=1..6 batches=1..6 last-values=1..2 copies=1..8 copies-worn=1..6 copies-lost=5..6 copies-short=1..2"

# One scenario, to its end; what it says is said at once, so that two do not talk into each other.
run() {
    local said status=0
    said="$("$sim" run "${1%=*}" --seeds "${seeds:-${1#*=}}" --quiet 2>&1)" || status=1
    printf '%s\n' "$said"
    return "$status"
}
export -f run
export sim seeds="${1:-}"
# As many at once as there are cores: most have too few seeds to keep all of them busy to the end.
printf '%s\n' $fixed | xargs -P "$(nproc)" -I {} bash -c 'run "$1"' run {} || exit 1

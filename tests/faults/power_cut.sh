#!/bin/sh
# Cuts the power under the store on ext4 and xfs, again and again, and checks that nothing acknowledged is lost.
#
#   tests/faults/power_cut.sh [cuts]        as root; default 25, nightly 500 (about 5 minutes for each file system)
#
# Needs root, loop devices, mkfs.ext4 and mkfs.xfs (package xfsprogs). What is missing is said in a line that begins with
# SKIPPED, and makes the script end with 77, so that a skipped run is not taken for a good one.
set -eu

cuts="${1:-25}"
case "$cuts" in
    '' | *[!0-9]*)
        echo "the number of cuts is \"$cuts\", allowed is a whole number" >&2
        exit 2
        ;;
esac

cd "$(dirname "$0")/../.."
report="$(mktemp)"
trap 'rm -f "$report"' EXIT

WEFT_POWER_CUTS="$cuts" cargo test --quiet --locked -p weft-node --lib \
    store::tests::torture::nothing_acknowledged_is_lost_by_power_cuts -- --exact --ignored --nocapture >"$report" 2>&1 || {
    cat "$report" >&2
    exit 1
}
cat "$report" >&2
# A name that matches no test would run none and pass.
grep -q '1 passed' "$report" || exit 1
if grep -q '^SKIPPED' "$report"; then
    exit 77
fi

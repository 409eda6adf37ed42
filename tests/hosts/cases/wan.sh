# Two sites with 150 ms, 2 % loss and 10 Mbit/s between them, one cut off for a minute, and a node that stands still for half of one: the scenario
# `sites` with the shipped binary on hosts of the simulator's WAN emulator. It is also run in virtual time by tests/simulations.sh.

case_wan() {
    local sim report
    sim="${WEFT_SIM_BIN:-$(dirname "$WEFT_BIN")/weft-sim}"
    [ -x "$sim" ] || { note "skipped: there is no $sim"; return; }
    report="$work/wan.json"
    "$sim" run sites --mode hosts --weft "$WEFT_BIN" --json >"$report" 2>"$work/wan.err" || {
        fail "$(jq -r '.checks[] | select(.passed | not) | "\(.name): \(.measured)"' "$report" 2>/dev/null || tail -n 3 "$work/wan.err")"
        return
    }
    ok "$(jq -r '[.checks[] | "\(.name) \(.measured)"] | join("; ")' "$report")"
}

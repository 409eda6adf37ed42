# What the simulator says of a mesh, beside the same mesh between kernels: whether the one in virtual time can be believed.

case_simulated() {
    local simulator="${WEFT_SIM:-$(dirname "$WEFT_BIN")/weft-sim}" runs off
    [ -x "$simulator" ] || { fail "there is no $simulator: cargo build -p weft-sim first, or set WEFT_SIM"; return; }
    cat >"$work/ring.toml" <<'TOML'
name = "ring"
duration = "30s"
quiet = "8s"
[fleet]
nodes = 8
[topology]
kind = "ring"
[links]
latency = "20ms"
[[workload]]
kind = "publish"
senders = 2
rate = "2/s"
start = "5s"
[[check]]
kind = "delivery-ratio"
min = 0.99
TOML
    runs="$("$simulator" compare "$work/ring.toml" --with hosts --weft "$WEFT_BIN" --json --quiet)" ||
        { fail "the ring does not run in both modes, or not everything is delivered"; return; }
    # Of all deliveries, those that took another number of hops in one mode than in the other.
    off="$(jq '.runs | map(.hops + [0, 0, 0, 0, 0, 0, 0, 0]) as [$a, $b]
        | ([range(0; 8) | $a[.] - $b[.] | fabs] | add) / 2 / ($a | add)' <<<"$runs")"
    if ! awk -v off="${off:-1}" 'BEGIN { exit !(off <= 0.1) }'; then
        fail "$off of the deliveries took another number of hops: $(jq -c '[.runs[] | {mode, hops}]' <<<"$runs")"
        return
    fi
    ok "deliveries by hops, virtual and between kernels: $(jq -c '[.runs[].hops]' <<<"$runs")"
}

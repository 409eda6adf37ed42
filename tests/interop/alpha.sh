# For the tests of libp2p written by others: a node of a private mesh that serves `greet`. Sourced by their `run`, after it has what it needs.
# ALPHA is its data directory, ADDRESS, WS_ADDRESS and QUIC_ADDRESS where it listens.

work="$(mktemp -d)"
pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

export ALPHA="$work/alpha"
"$WEFT_BIN" --data-dir "$ALPHA" run --name alpha --no-mdns --api 127.0.0.1:0 --listen /ip4/127.0.0.1/tcp/0 --listen /ip4/127.0.0.1/tcp/0/ws \
    --listen /ip4/127.0.0.1/udp/0/quic-v1 \
    2>"$work/alpha.log" &
pids+=($!)
status="$("$WEFT_BIN" --data-dir "$ALPHA" status --json --wait 60s)" || { cat "$work/alpha.log" >&2; exit 1; }
listens() { printf '%s' "$status" | grep -o '"/ip4/127[^"]*"' | tr -d '"' | grep "$@" | head -n 1; }
ADDRESS="$(listens '/tcp/[0-9]*/p2p')"
WS_ADDRESS="$(listens /ws)"
QUIC_ADDRESS="$(listens /quic-v1)"
export ADDRESS WS_ADDRESS QUIC_ADDRESS
"$WEFT_BIN" --data-dir "$ALPHA" serve greet --exec "printf 'hello '; cat" 2>/dev/null &
pids+=($!)
for _ in $(seq 100); do
    "$WEFT_BIN" --data-dir "$ALPHA" service ls --json | grep -q greet && break
    sleep 0.1
done

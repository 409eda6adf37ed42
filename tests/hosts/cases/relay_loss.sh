# A host behind NAT holds places at two relays; one dies. It stays reachable by the other, and takes a place at a third.

holds() { weft "$1" status --json | jq -e --arg i "$2" 'any(.relays[]; tostring | contains($i))' >/dev/null; }
holds_places() { weft "$1" status --json | jq -e --argjson n "$2" '(.relays | length) >= $n' >/dev/null; }
holds_other() {
    weft "$1" status --json |
        jq -e --arg i "$2" '[.relays[] | select(tostring | contains($i) | not)] | length >= 2' >/dev/null
}

case_relay_loss() {
    local name begun lost unreachable=0 third
    switch net
    host p1 p2 p3
    plug p1 eth0 net 198.18.0.10/24
    plug p2 eth0 net 198.18.0.11/24
    plug p3 eth0 net 198.18.0.12/24
    router ra net 10.1.0 198.18.0.1/24 restricted
    router rb net 10.2.0 198.18.0.2/24 symmetric
    behind a ra 10.1.0.2
    behind b rb 10.2.0.2
    founder p1 || return
    for name in p2 p3 a b; do joined "$name" p1 || return; done
    until_true 30 holds_places a 2 || { fail "a holds fewer than two places: $(weft a status --json | jq -c .relays)"; return; }
    serve a greet
    until_true 15 calls b greet || { fail "b cannot call a"; return; }
    for name in p1 p2 p3; do holds a "$(id_of "$name")" && { lost="$name"; break; }; done
    local lost_id
    lost_id="$(id_of "$lost")"
    begun="$(now_ms)"
    kill_hard "$lost"
    third=""
    while (($(now_ms) - begun < 20000)); do
        # Short, so that a call that hangs does not hide when the place was taken.
        [ "$(call b greet hello --timeout 500ms 2>/dev/null)" = hello ] || unreachable="$(seconds_since "$begun")"
        [ -z "$third" ] && holds_other a "$lost_id" && third="$(seconds_since "$begun")"
        [ -n "$third" ] && (($(now_ms) - begun > 12000)) && break
        sleep 0.2
    done
    [ -n "$third" ] || { fail "no place at a third relay within 20 s: $(weft a status --json | jq -c .relays)"; return; }
    until_true 5 calls b greet || { fail "b cannot call a any more"; return; }
    if [ "${third%.*}" -ge 10 ]; then
        fail "place at the third relay only after $third s (promised: 10 s); last failed call at $unreachable s"
        return
    fi
    ok "$lost died: place at a third relay after $(of_limit "$third" 10); last failed call at $unreachable s"
}

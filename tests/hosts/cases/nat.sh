# Two hosts, each behind a router with NAT, and one public host: the relay, the hole through both routers, and what
# happens where none can be punched.

# behind_nat KIND_A KIND_B [udp-blocked]: p public; a and b behind routers of those kinds; all members.
behind_nat() {
    switch net
    host p
    plug p eth0 net 198.18.0.10/24
    router ra net 10.1.0 198.18.0.1/24 "$1" "${3:-}"
    router rb net 10.2.0 198.18.0.2/24 "$2" "${3:-}"
    behind a ra 10.1.0.2
    behind b rb 10.2.0.2
    founder p || return 1
    joined a p || return 1
    joined b p || return 1
}

has_relay() { weft "$1" status --json | jq -e '.reachability == "private" and (.relays | length) >= 1'; }

# relay_or_fail A B: both know that they are not reachable and hold a place at the relay.
held_places() {
    local name
    for name in "$@"; do
        until_true 30 has_relay "$name" || {
            fail "$name holds no place at a relay: $(weft "$name" status --json | jq -c '{reachability, relays, external}')"
            return 1
        }
    done
}

# punched [udp-blocked]: a call through the relay at once, a direct connection soon after; prints the figures.
punched() {
    local begun placed called
    begun="$(now_ms)"
    behind_nat restricted restricted "${1:-}" || return
    held_places a b || return
    placed="$(seconds_since "$begun")"
    serve a greet
    begun="$(now_ms)"
    until_true 15 calls b greet || { fail "b cannot call a"; return; }
    called="$(seconds_since "$begun")"
    until_true 15 direct b a || { fail "no direct connection in 15 s after the first call: $(weft b peers --json | jq -c '{name,relayed}' | tr '\n' ' ')"; return; }
    direct_after="$(seconds_since "$begun")"
    until_true 5 calls b greet || { fail "no call over the direct connection"; return; }
    heard a b nat.word || { fail "what a publishes does not reach b"; return; }
    ok "places at the relay after $placed s; first call $called s; direct $direct_after s after the first try"
}

case_nat() { punched; }
# UDP does not get through either router: the hole is punched with TCP.
case_nat_tcp() { punched udp-blocked; }

# Two hosts behind one router: they talk directly, and both are reached from elsewhere. That they reach each other is no
# proof that others do.
case_office() {
    local begun name
    behind_nat restricted symmetric || return
    behind a2 ra 10.1.0.3
    joined a2 p || return
    until_true 20 direct a a2 || { fail "two hosts of one network have no direct connection"; return; }
    # Long enough for either to have tested the other's address and found it reachable.
    until_true 20 confirmed a a2 || note "neither has confirmed an address of its own"
    held_places a a2 || return
    serve a2 greet
    begun="$(now_ms)"
    until_true 15 calls b greet || { fail "b cannot call a2"; return; }
    ok "both hold places at the relay; b, behind a symmetric NAT, called the second one after $(seconds_since "$begun") s"
}
confirmed() {
    local name
    for name in "$@"; do
        weft "$name" status --json | jq -e 'any(.external[]; startswith("/ip4/10.1.0."))' >/dev/null && return 0
    done
    return 1
}

# One router gives every destination another port: no hole can be punched. The relay must carry everything, for as long
# as it takes: longer than two minutes and more than 128 KiB, where relays for strangers cut.
case_symmetric() {
    local begun called mib round payload
    behind_nat restricted symmetric || return
    held_places a b || return
    serve a greet
    begun="$(now_ms)"
    until_true 15 calls b greet || { fail "b cannot call a"; return; }
    called="$(seconds_since "$begun")"
    payload="$work/payload"
    head -c 1048576 /dev/urandom >"$payload"
    begun="$(now_ms)"
    for round in 1 2 3 4 5; do
        call b greet --file "$payload" --timeout 30s 2>"$work/b/call.err" | cmp -s - "$payload" || {
            fail "round $round of 1 MiB through the relay: $(head -c 300 "$work/b/call.err")"
            return
        }
    done
    mib="$(seconds_since "$begun")"
    heard a b nat.word || { fail "what a publishes does not reach b"; return; }
    # Past the two minutes, on the connection that is there.
    begun="$(now_ms)"
    while (($(now_ms) - begun < ${WEFT_HOSTS_HOLD_S:-130} * 1000)); do
        calls b greet || { fail "a call fails after $(seconds_since "$begun") s"; return; }
        sleep 2
    done
    relayed b a || { fail "the connection is said to be direct, through a symmetric NAT"; return; }
    heard b a nat.back || { fail "what b publishes does not reach a"; return; }
    ok "first call $called s; 5 x 1 MiB there and back in $mib s; a call every 2 s for ${WEFT_HOSTS_HOLD_S:-130} s, none failed"
}

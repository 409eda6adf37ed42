# A member is cast out on a LAN of four: every live node cuts it, and it does not come back.

case_revoke() {
    local name id begun seconds
    switch sw
    host a b c d
    plug a eth0 sw 10.0.0.1/24
    plug b eth0 sw 10.0.0.2/24
    plug c eth0 sw 10.0.0.3/24
    plug d eth0 sw 10.0.0.4/24
    founder a || return
    for name in b c d; do joined "$name" a || return; done
    for name in a b c d; do
        until_true 10 peers_are "$name" 3 || { fail "$name does not see all the others"; return; }
    done
    id="$(id_of d)"
    begun="$(now_ms)"
    weft a member revoke --yes "$id" >/dev/null 2>&1 || { fail "the member cannot be revoked"; return; }
    for name in a b c; do
        until_true 10 lacks "$name" "$id" || { fail "$name still has it after 10 s"; return; }
    done
    seconds="$(seconds_since "$begun")"
    # Not by a restart either, through no other member.
    stop d
    node d --bootstrap "$(address_of b /ip4/10.)"
    until_true 5 answers d
    for name in a b c; do
        stays_away "$name" "$id" 30 || { fail "it came back to $name"; return; }
    done
    sees b a && sees c b || { fail "the others lost each other"; return; }
    ok "every live node cut it in $(of_limit "$seconds" 10); it does not come back by a restart"
}

# stays_away HOST ID LOOKS: a hundred milliseconds apart, it is never seen.
stays_away() {
    local look
    for look in $(seq "$3"); do
        lacks "$1" "$2" || return 1
        sleep 0.1
    done
}

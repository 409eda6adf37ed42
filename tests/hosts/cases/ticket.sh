# An issuer behind NAT makes a ticket. A newcomer that cannot dial it redeems the ticket through a member that both reach.

case_ticket() {
    local begun
    switch net
    host p q
    plug p eth0 net 198.18.0.10/24
    plug q eth0 net 198.18.0.11/24
    router ra net 10.1.0 198.18.0.1/24 restricted
    router rb net 10.2.0 198.18.0.2/24 symmetric
    behind a ra 10.1.0.2
    behind b rb 10.2.0.2
    founder p || return
    node a --join "$(weft p invite --role admin)"
    up a 20 || { fail "a does not join"; return; }
    until_true 30 holds_places a 1 || { fail "a has no place at a relay"; return; }
    for name in q b; do
        begun="$(now_ms)"
        joined "$name" a || return
        ok "a ticket from behind NAT let $name in after $(seconds_since "$begun") s"
    done
    until_true 15 sees b a || { fail "b does not see a"; return; }
}

# Three hosts on one switch: joining, calls, messages, round trips; IPv4, IPv6 alone, and finding each other by mDNS.

# lan_works A B C: B by address and approval, C by ticket; then everything between them.
lan_works() {
    local a="$1" b="$2" c="$3" begun by_approval by_ticket
    begun="$(now_ms)"
    node "$b" --bootstrap "$(address_of "$a" "$4")"
    until_true 10 answers "$b" || { fail "$b does not start"; return; }
    until_true 10 pending "$a" "$(id_of "$b")" || { fail "$b is not seen waiting"; return; }
    weft "$a" member approve "$(id_of "$b")" >/dev/null 2>&1 || { fail "$b cannot be approved"; return; }
    up "$b" || { fail "$b does not join after approval"; return; }
    by_approval="$(seconds_since "$begun")"
    local ticket
    ticket="$(weft "$a" invite)"
    begun="$(now_ms)"
    node "$c" --join "$ticket"
    up "$c" || { fail "$c does not join by ticket"; return; }
    by_ticket="$(seconds_since "$begun")"
    until_true 5 sees "$b" "$c" || { fail "$b and $c do not find each other"; return; }
    serve "$a" greet
    until_true 5 calls "$b" greet || { fail "$b cannot call $a"; return; }
    until_true 5 calls "$c" greet || { fail "$c cannot call $a"; return; }
    heard "$b" "$c" orders.eu || { fail "what $b publishes does not reach $c"; return; }
    weft "$c" ping "$b" --count 2 --interval 50ms >/dev/null || { fail "$c cannot ping $b"; return; }
    if [ "${by_approval%.*}" -ge 2 ] || [ "${by_ticket%.*}" -ge 2 ]; then
        fail "joined by approval in $by_approval s, by ticket in $by_ticket s; promised is under 2 s"
        return
    fi
    ok "joined by approval in $by_approval s, by ticket in $by_ticket s; call, publish, ping"
}

case_lan() {
    switch sw
    host a b c
    plug a eth0 sw 10.0.0.1/24
    plug b eth0 sw 10.0.0.2/24
    plug c eth0 sw 10.0.0.3/24
    founder a || return
    lan_works a b c /ip4/10.
}

case_ipv6() {
    switch sw
    host a b c
    plug a eth0 sw fd00::1/64
    plug b eth0 sw fd00::2/64
    plug c eth0 sw fd00::3/64
    founder a || return
    lan_works a b c /ip6/fd00
}

# Both members come back with other addresses than anyone knows: only mDNS can bring them together.
case_mdns() {
    local begun
    switch sw
    host a b
    plug a eth0 sw 10.0.0.1/24
    plug b eth0 sw 10.0.0.2/24
    founder a || return
    joined b a || return
    stop a b
    ip -n "$(space a)" addr flush dev eth0
    ip -n "$(space b)" addr flush dev eth0
    ip -n "$(space a)" addr add 10.0.7.1/24 dev eth0
    ip -n "$(space b)" addr add 10.0.7.2/24 dev eth0
    ip -n "$(space a)" route replace 224.0.0.0/4 dev eth0
    ip -n "$(space b)" route replace 224.0.0.0/4 dev eth0
    begun="$(now_ms)"
    node a
    node b
    until_true 20 sees b a || { fail "with new addresses they do not find each other in 20 s"; return; }
    ok "with new addresses they find each other in $(seconds_since "$begun") s"
}

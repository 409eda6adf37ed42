# Bootstrap addresses: one that answers suffices, dead ones do not stop the start, a name is as good as a number.

case_bootstrap() {
    local begun id dead_host dead_port seconds by_name
    switch sw
    host a b c d
    plug a eth0 sw 10.0.0.1/24
    plug b eth0 sw 10.0.0.2/24
    plug c eth0 sw 10.0.0.3/24
    plug d eth0 sw 10.0.0.4/24
    founder a || return
    joined b a || return
    id="$(id_of a)"
    # Nobody has these addresses; nobody listens on that port; somebody else answers at the last.
    dead_host="/ip4/10.0.0.99/tcp/7400/p2p/12D3KooWP8QU9nsKNVa5ZM6S2xceRUr9YqxM9eKHCy9PmZ2FVSWB"
    dead_port="/ip4/10.0.0.1/tcp/9/p2p/12D3KooWDAHne5KUTXU4PkjFBxdQJdAzR59yyyprzw3EGEWVjaDc"
    local ticket_free=("--bootstrap" "$dead_host" "--bootstrap" "$dead_port" "--bootstrap" "/ip4/10.0.0.1/tcp/7400/p2p/$id" --no-mdns)
    begun="$(now_ms)"
    node c "${ticket_free[@]}"
    until_true 10 answers c || { fail "dead bootstrap addresses stop the start"; return; }
    until_true 10 pending a "$(id_of c)" || { fail "the one live bootstrap address is not used"; return; }
    weft a member approve "$(id_of c)" >/dev/null 2>&1
    up c || { fail "c does not join"; return; }
    seconds="$(seconds_since "$begun")"
    # A member restarted with dead addresses alone lives on them and its address book.
    stop c
    node c --bootstrap "$dead_host" --no-mdns
    up c || { fail "a dead bootstrap address stops a restart"; return; }
    until_true 10 sees c a || { fail "c does not find its mesh from its address book"; return; }
    mkdir -p "/etc/netns/$(space d)"
    printf '127.0.0.1 localhost\n10.0.0.1 alpha.example\n' >"/etc/netns/$(space d)/hosts"
    printf 'nameserver 10.0.0.98\noptions timeout:1 attempts:1\n' >"/etc/netns/$(space d)/resolv.conf"
    begun="$(now_ms)"
    node d --bootstrap "/dns4/alpha.example/tcp/7400/p2p/$id" --no-mdns
    until_true 10 answers d || { fail "d does not start"; return; }
    until_true 10 pending a "$(id_of d)" || { fail "a name is not resolved to a bootstrap address"; return; }
    weft a member approve "$(id_of d)" >/dev/null 2>&1
    up d || { fail "d does not join"; return; }
    by_name="$(seconds_since "$begun")"
    ok "one live of three: $seconds s; by name: $by_name s; dead ones alone do not stop a start"
}

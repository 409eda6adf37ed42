# Every kind of NAT against every other: how two hosts come together, after how long, and what then works.
#
# Public: no router. Two-layers: a router of its own behind a carrier's. The others: see `router`. For each pair one line of a table:
# direct (one can dial the other), punched (a hole through both), or relayed; a call, a message, and 100 MB by hash.

nat_kinds=(public cone address restricted symmetric two-layers)
# So long a pair may take until it is direct; after that it stays relayed.
nat_direct_s=25
transfer_bytes="${WEFT_HOSTS_TRANSFER_BYTES:-100000000}"

# behind_kind HOST KIND NUMBER [udp-blocked]: a host behind that, with networks of the number's own.
behind_kind() {
    local name="$1" kind="$2" number="$3"
    case "$kind" in
        public)
            host "$name"
            plug "$name" eth0 net "198.18.0.10$number/24"
            ;;
        two-layers)
            router "c$name" net "100.64.$number" "198.18.0.$number/24" restricted "${4:-}"
            router "r$name" "c$name" "10.$number.0" "100.64.$number.2/24" restricted
            ip -n "$(space "r$name")" route add default via "100.64.$number.1"
            behind "$name" "r$name" "10.$number.0.2"
            ;;
        *)
            router "r$name" net "10.$number.0" "198.18.0.$number/24" "$kind" "${4:-}"
            behind "$name" "r$name" "10.$number.0.2"
            ;;
    esac
}

# nat_pair KIND_A KIND_B [udp-blocked]: the row of the table in `row`; fails when something does not work.
nat_pair() {
    local begun how after called film took
    switch net
    host p
    plug p eth0 net 198.18.0.200/24
    behind_kind a "$1" 1 "${3:-}"
    behind_kind b "$2" 2 "${3:-}"
    founder p --no-mdns || return 1
    joined a p --no-mdns || return 1
    joined b p --no-mdns || return 1
    serve a greet
    begun="$(now_ms)"
    until_true 40 calls b greet || { fail "$1 × $2: b cannot call a"; return 1; }
    called="$(seconds_since "$begun")"
    if until_true "$nat_direct_s" direct b a; then
        after="$(seconds_since "$begun")"
        how=punched
        { [ "$1" = public ] || [ "$1" = cone ] || [ "$2" = public ] || [ "$2" = cone ]; } && how=direct
    else
        how=relayed after="–"
        relayed b a || { fail "$1 × $2: a and b do not see each other: $(weft b peers --json | jq -c '{name,relayed}' | tr '\n' ' ')"; return 1; }
    fi
    heard a b nat.there || { fail "$1 × $2: what a publishes does not reach b"; return 1; }
    heard b a nat.back || { fail "$1 × $2: what b publishes does not reach a"; return 1; }
    film="$work/film"
    [ -s "$film" ] || head -c "$transfer_bytes" /dev/urandom >"$film"
    begun="$(now_ms)"
    HOME="$work/b" timeout 300 "$WEFT_BIN" --data-dir "$work/b/data" sub films.1 --count 1 --timeout 290s --save "$work/b/films" >"$work/b/films.out" 2>"$work/b/films.err" &
    local sub=$!
    until_true 10 grep -q subscribed "$work/b/films.err" || { fail "$1 × $2: b cannot subscribe"; return 1; }
    sleep 1
    begun="$(now_ms)"
    weft a pub films.1 --file "$film" >/dev/null 2>"$work/a/films.err" || { fail "$1 × $2: a cannot publish a film: $(cat "$work/a/films.err")"; return 1; }
    wait "$sub" || { fail "$1 × $2: the film did not arrive: $(tail -n 2 "$work/b/films.err")"; return 1; }
    took="$(seconds_since "$begun")"
    find "$work/b/films" -type f -exec cmp -s "$film" {} \; -print | grep -q . || { fail "$1 × $2: the film is another one"; return 1; }
    row="$(printf '| %s × %s%s | %s | %s s | %s | %s MB in %s s |' "$1" "$2" "${3:+, no UDP}" "$how" "$called" "${after/%[0-9]/&}" "$((transfer_bytes / 1000000))" "$took")"
}

# All pairs, or those that WEFT_HOSTS_PAIRS names ("cone:symmetric two-layers:public").
case_nat_table() {
    local pair first second blocked pairs="" i j
    for ((i = 0; i < ${#nat_kinds[@]}; i++)); do
        for ((j = i; j < ${#nat_kinds[@]}; j++)); do pairs="$pairs ${nat_kinds[i]}:${nat_kinds[j]}"; done
    done
    pairs="$pairs restricted:restricted:udp-blocked public:symmetric:udp-blocked"
    printf '| NAT | how | first call | direct after | transfer |\n|---|---|---|---|---|\n'
    for pair in ${WEFT_HOSTS_PAIRS:-$pairs}; do
        IFS=: read -r first second blocked <<<"$pair"
        nat_pair "$first" "$second" "$blocked" && printf '%s\n' "$row"
        tear_down
    done
    ok "each pair in the table can call, publish and transfer"
}

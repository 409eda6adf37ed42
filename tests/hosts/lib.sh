# Hosts made of network namespaces, and nodes of the built binary on them. Sourced by `run`.
#
# A host is a namespace of its own; a switch is one with a bridge; a NAT router is one with nft rules. Everything is named
# after this process, so several runs do not meet, and is taken down when the run ends, however it ends. Nothing outside
# these namespaces is touched but /etc/netns/NAME of our own names.

tag="wh$$"
work="$(mktemp -d "${TMPDIR:-/tmp}/weft-hosts.XXXXXX")"
declare -A pid_of        # host -> pid of its node
declare -a others=()     # pids of other helpers
declare -a spaces=()     # namespaces made
failures=0

# ---- time and waiting

now_ms() {
    local us="${EPOCHREALTIME/[.,]/}"
    echo "${us%???}"
}

seconds_since() {
    local ms=$(($(now_ms) - $1))
    printf '%d.%02d' $((ms / 1000)) $((ms % 1000 / 10))
}

# of_limit MEASURED LIMIT: both in seconds, with their ratio.
of_limit() { awk -v m="$1" -v l="$2" 'BEGIN { printf "%s s of %s s (ratio %.2f)", m, l, m / l }'; }

# until_true SECONDS COMMAND…: repeats the command until it succeeds; fails when the time is over.
until_true() {
    local end=$(($(now_ms) + $1 * 1000))
    shift
    until "$@" >/dev/null 2>&1; do
        (($(now_ms) < end)) || return 1
        sleep 0.05
    done
}

# ---- reporting: one line a case

ok() { printf 'ok    %-10s %s\n' "$case_name" "$*"; }
fail() {
    failures=$((failures + 1))
    printf 'FAIL  %-10s %s\n' "$case_name" "$*"
    if [ -n "${WEFT_HOSTS_KEEP:-}" ]; then
        echo "      logs kept in $work" >&2
    else
        tail -n "${WEFT_HOSTS_LOG_LINES:-8}" "$work"/*/log 2>/dev/null | cut -c1-300 >&2
    fi
}
note() { printf '      %-10s %s\n' "$case_name" "$*" >&2; }

# ---- hosts and links

space() { echo "$tag-$1"; }
in_host() {
    local host="$1"
    shift
    ip netns exec "$(space "$host")" "$@"
}

host() {
    local name
    for name in "$@"; do
        ip netns add "$(space "$name")"
        spaces+=("$(space "$name")")
        ip -n "$(space "$name")" link set lo up
        mkdir -p "$work/$name"
    done
}

switch() {
    host "$1"
    # Without snooping, so that multicast DNS reaches everybody at once.
    ip -n "$(space "$1")" link add br0 type bridge mcast_snooping 0
    ip -n "$(space "$1")" link set br0 up
}

# plug HOST DEVICE SWITCH ADDRESS…: a cable from the host to a port of the switch, which is named after the host.
# A host has one cable to a switch.
plug() {
    local name="$1" device="$2" to="$3" address
    shift 3
    ip link add "$device" netns "$(space "$name")" type veth peer name "$name" netns "$(space "$to")"
    ip -n "$(space "$to")" link set dev "$name" master br0 up
    ip -n "$(space "$name")" link set dev "$device" up
    for address in "$@"; do
        case "$address" in
            *:*) ip -n "$(space "$name")" addr add "$address" dev "$device" nodad ;;
            *) ip -n "$(space "$name")" addr add "$address" dev "$device" ;;
        esac
    done
    # Multicast, also where there is no default route.
    ip -n "$(space "$name")" route add 224.0.0.0/4 dev "$device" 2>/dev/null || true
}

# router ROUTER SWITCH NETWORK WAN KIND [udp-blocked]: a NAT router at WAN on the switch, with a network of its own behind
# it, where it is NETWORK.1. What KIND lets in, in the words of RFC 3489: `cone` everybody (to NETWORK.2, who alone may be behind
# it), `address` whom NETWORK.2 has spoken to, from any port, `restricted` only who was spoken to at that port; `symmetric` besides
# gives each destination another port.
router() {
    local name="$1" to="$2" network="$3" wan="$4" extra="" blocked="" into="" seen="" inward="" outward=""
    case "$5" in
        restricted) ;;
        symmetric) extra=" random,fully-random" ;;
        cone | address) into="iifname \"wan0\" meta l4proto { tcp, udp } dnat to $network.2" ;;
        *) echo "no kind of router: $5" >&2; return 2 ;;
    esac
    [ "$5" = cone ] && inward='iifname "wan0" accept'
    if [ "$5" = address ]; then
        seen="set seen { type ipv4_addr; flags dynamic,timeout; timeout 5m; }"
        outward='iifname "br0" update @seen { ip daddr }'
        inward='iifname "wan0" ip saddr @seen accept'
    fi
    [ "${6:-}" = udp-blocked ] && blocked="meta l4proto udp drop"
    switch "$name"
    plug "$name" wan0 "$to" "$wan"
    ip -n "$(space "$name")" addr add "$network.1/24" dev br0
    in_host "$name" sysctl -qw net.ipv4.ip_forward=1
    # Without the chain `inp` an early packet of the other side would be answered by the router itself, and the mapping
    # that follows would get another port: no hole could ever be punched.
    in_host "$name" nft -f - <<RULES
table ip nat {
 chain pre {
  type nat hook prerouting priority -100; policy accept;
  $into
 }
 chain post {
  type nat hook postrouting priority 100; policy accept;
  oifname "wan0" masquerade$extra
 }
}
table ip fw {
 $seen
 chain inp {
  type filter hook input priority 0; policy accept;
  iifname "wan0" ct state new,invalid drop
 }
 chain forw {
  type filter hook forward priority 0; policy drop;
  $blocked
  $outward
  ct state established,related accept
  $inward
  iifname "br0" accept
 }
}
RULES
}

# behind HOST ROUTER ADDRESS: a host on the router's own network.
behind() {
    host "$1"
    plug "$1" eth0 "$2" "$3/24"
    ip -n "$(space "$1")" route add default via "${3%.*}.1"
}

# port HOST SWITCH up|down
port() { ip -n "$(space "$2")" link set dev "$1" "$3"; }

# ---- nodes

# node HOST [ARGUMENT…]: starts a node in the background; its data dir is its own and stays over a restart.
node() {
    local name="$1"
    shift
    ip netns exec "$(space "$name")" env HOME="$work/$name" \
        "$WEFT_BIN" --data-dir "$work/$name/data" run --name "$name" --log "${WEFT_HOSTS_LOG:-info,weft_node::mesh=debug}" "$@" \
        >>"$work/$name/log" 2>&1 </dev/null &
    pid_of[$name]=$!
    disown
}

# weft HOST ARGUMENT…: a command of the node there, through its Unix socket.
weft() {
    local name="$1"
    shift
    HOME="$work/$name" "$WEFT_BIN" --data-dir "$work/$name/data" "$@"
}

stop() {
    local name
    for name in "$@"; do
        [ -n "${pid_of[$name]:-}" ] || continue
        kill "${pid_of[$name]}" 2>/dev/null
        until_true 10 gone "${pid_of[$name]}" || kill -9 "${pid_of[$name]}" 2>/dev/null
        unset "pid_of[$name]"
    done
}

kill_hard() {
    kill -9 "${pid_of[$1]}" 2>/dev/null
    until_true 5 gone "${pid_of[$1]}"
    unset "pid_of[$1]"
}

gone() { ! kill -0 "$1" 2>/dev/null; }

# up HOST: a member, ready, after at most ten seconds.
up() { until_true "${2:-10}" is_ready "$1"; }
is_ready() { [ "$(weft "$1" status --json | jq -r .state)" = ready ]; }
answers() { weft "$1" status --json | jq -e .peer_id; }

id_of() { weft "$1" status --json | jq -r .peer_id; }
# address_of HOST TEXT: the first address it listens on that contains the text.
address_of() { weft "$1" status --json | jq -r --arg t "$2" '[.listen[] | select(contains($t))][0]'; }

# founder HOST [ARGUMENT…] and joined HOST MEMBER [ARGUMENT…]: started and ready.
founder() {
    node "$@"
    up "$1" || { fail "$1 does not come up"; return 1; }
}
joined() {
    local name="$1" member="$2"
    shift 2
    node "$name" --join "$(weft "$member" invite)" "$@"
    up "$name" 20 || { fail "$name does not join by a ticket of $member"; return 1; }
}

# peers_are HOST COUNT: so many members are connected.
peers_are() { [ "$(weft "$1" peers --json | grep -c .)" -ge "$2" ]; }
# of_peers HOST OTHER QUESTION: whether it holds for the other one in the list of peers. The whole list is read, so that
# no pipe breaks.
of_peers() { weft "$1" peers --json | jq -es --arg n "$2" "any(.[]; .name == \$n and ($3))" >/dev/null; }
# sees HOST OTHER: the other one is connected; and how.
sees() { of_peers "$1" "$2" true; }
direct() { of_peers "$1" "$2" '.relayed == false'; }
relayed() { of_peers "$1" "$2" '.relayed == true'; }
# lacks HOST ID: nobody with this id is connected.
lacks() { weft "$1" peers --json | jq -es --arg i "$2" 'all(.[]; .peer_id != $i)' >/dev/null; }
# pending MEMBER ID: the member has it on its list of those who wait.
pending() { weft "$1" member ls --pending --json | jq -es --arg i "$2" 'any(.[]; .peer_id == $i)' >/dev/null; }

# serve HOST SERVICE [ARGUMENT…]: offers a service until the case ends.
serve() {
    local name="$1" service="$2"
    shift 2
    HOME="$work/$name" "$WEFT_BIN" --data-dir "$work/$name/data" serve "$service" "${@:---echo}" \
        >>"$work/$name/serve.log" 2>&1 </dev/null &
    others+=($!)
    disown
}

call() {
    local name="$1"
    shift
    weft "$name" call "$@"
}
calls() { [ "$(call "$1" "$2" hello 2>/dev/null)" = hello ]; }

# heard FROM TO SUBJECT: a message published on one host arrives at a subscriber on another.
heard() {
    local out="$work/$2/heard.$RANDOM"
    HOME="$work/$2" timeout 20 "$WEFT_BIN" --data-dir "$work/$2/data" sub "$3" --count 1 --timeout 15s --raw \
        >"$out" 2>"$out.err" &
    local sub=$!
    until_true 10 grep -q 'subscribed' "$out.err" || return 1
    # The subscription reaches the publisher's node a moment later.
    local try
    for try in $(seq 40); do
        weft "$1" pub "$3" "word $3" >/dev/null 2>&1
        sleep 0.25
        [ -s "$out" ] && break
    done
    kill "$sub" 2>/dev/null
    wait "$sub" 2>/dev/null
    grep -q "word $3" "$out"
}

# ---- the end

# Takes down what a case has made.
tear_down() {
    local name pid
    for pid in "${others[@]:-}"; do [ -n "$pid" ] && kill -9 "$pid" 2>/dev/null; done
    for name in "${!pid_of[@]}"; do kill -9 "${pid_of[$name]}" 2>/dev/null; done
    for name in "${!pid_of[@]}"; do until_true 5 gone "${pid_of[$name]}"; done
    for name in "${spaces[@]:-}"; do
        [ -n "$name" ] || continue
        ip netns del "$name" 2>/dev/null
        rm -rf "/etc/netns/${name:?}"
    done
    [ -n "${WEFT_HOSTS_KEEP:-}" ] || rm -rf "${work:?}"/*
    [ -z "${WEFT_HOSTS_KEEP:-}" ] || { mkdir -p "$work/done-$case_name"; find "$work" -mindepth 1 -maxdepth 1 ! -name 'done-*' -exec mv -t "$work/done-$case_name" {} +; }
    others=() spaces=()
    unset pid_of
    declare -gA pid_of
}

finish() {
    case_name="${case_name:-end}"
    tear_down 2>/dev/null
    rmdir "$work" 2>/dev/null || { [ -n "${WEFT_HOSTS_KEEP:-}" ] && echo "kept: $work" >&2; }
}

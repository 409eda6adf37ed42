# A hundred idle TCP connections a second from eight addresses, and honest nodes that want to join meanwhile.

flood_idle() {
    in_host evil python3 - "$1" <<'PYTHON'
import socket, sys, time
target, sources = (sys.argv[1], 7400), ["10.0.0.%d" % n for n in range(100, 108)]
begun, made, refused, kept = time.monotonic(), 0, 0, []
while True:
    due = int((time.monotonic() - begun) * 100)
    while made < due:
        s = socket.socket()
        s.setblocking(False)
        s.bind((sources[made % 8], 0))
        try:
            s.connect(target)
        except BlockingIOError:
            pass
        except OSError:
            refused += 1
        made += 1
        kept.append((time.monotonic(), s))
    # An idle socket is held for a minute, so that none frees its place by going away.
    while kept and time.monotonic() - kept[0][0] > 60:
        kept.pop(0)[1].close()
    print(made, flush=True)
    time.sleep(0.05)
PYTHON
}

case_flood() {
    local name index joins=0 slowest=0 begun ms address flooder made before after
    command -v python3 >/dev/null || { note "skipped: python3 is missing"; return; }
    ulimit -n 8192
    switch sw
    host a evil
    plug a eth0 sw 10.0.0.1/24
    plug evil eth0 sw 10.0.0.100/24 10.0.0.10{1,2,3,4,5,6,7}/24
    for index in 1 2 3 4 5 6 7 8 9 10 11 12; do
        host "j$index"
        plug "j$index" eth0 sw "10.0.0.$((index + 10))/24"
    done
    founder a || return
    before="$(rss_mib a)"
    flood_idle 10.0.0.1 >"$work/evil/made" 2>&1 &
    flooder=$!
    others+=("$flooder")
    sleep 3
    for index in 1 2 3 4 5 6 7 8 9 10 11 12; do
        name="j$index"
        address="$(weft a invite)"
        begun="$(now_ms)"
        node "$name" --join "$address" --no-mdns
        if until_true 15 is_ready "$name"; then
            ms=$(($(now_ms) - begun))
            ((ms > slowest)) && slowest=$ms
            ((ms <= 5000)) && joins=$((joins + 1))
        else
            slowest=15000
        fi
        stop "$name"
        # Spread over the thirty seconds.
        while (($(now_ms) - begun < 2300)); do sleep 0.1; done
    done
    after="$(rss_mib a)"
    made="$(tail -n 1 "$work/evil/made")"
    kill "$flooder" 2>/dev/null
    local figure
    figure="$joins/12 joined within 5 s, slowest $(of_limit "$((slowest / 1000)).$(printf %03d $((slowest % 1000)))" 5); $made idle connections; memory of the node $before -> $after MiB"
    [ "$joins" = 12 ] && ok "$figure" || fail "$figure"
}

rss_mib() { echo $(($(awk '/^VmRSS/ {print $2}' "/proc/${pid_of[$1]}/status") / 1024)); }

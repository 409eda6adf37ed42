# A node is killed and comes back within a second: its neighbour still takes the old connections for alive. What it publishes
# reaches the subscriber there soon after all the same.

case_rejoin() {
    local round begun slowest=0 ms out
    switch sw
    host a b
    plug a eth0 sw 10.0.0.1/24 fd00:77::1/64
    plug b eth0 sw 10.0.0.2/24 fd00:77::2/64
    founder a || return
    joined b a || return
    out="$work/b/sub.out"
    HOME="$work/b" "$WEFT_BIN" --data-dir "$work/b/data" sub 'orders.>' --raw >"$out" 2>"$out.err" &
    others+=($!)
    disown
    until_true 10 grep -q 'subscribed' "$out.err" || { fail "b cannot subscribe"; return; }
    for round in first second third; do
        kill_hard a
        sleep 1
        node a
        begun="$(now_ms)"
        until_true 30 publishes_until_heard "$round" "$out" || { fail "30 s after its $round return nothing of a reaches b"; return; }
        ms=$(($(now_ms) - begun))
        ((ms > slowest)) && slowest=$ms
    done
    if ((slowest >= 15000)); then
        fail "killed and back: heard only after $((slowest / 1000)) s of 15 s"
        return
    fi
    ok "killed and back three times: heard after $(of_limit "$((slowest / 1000)).$(printf %03d $((slowest % 1000)))" 15) at most"
}

publishes_until_heard() {
    weft a pub orders.back "$1" >/dev/null 2>&1
    grep -q "$1" "$2"
}

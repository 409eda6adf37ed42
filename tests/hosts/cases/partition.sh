# Six hosts on one switch, cut into three and three, and healed: everybody sees everybody again soon after.

six=(a b c d e f)

all_see_all() {
    local name
    for name in "${six[@]}"; do peers_are "$name" 5 || return 1; done
}

# Nothing between the halves; within a half all goes on. TCP and UDP, both directions.
cut() {
    in_host sw nft -f - <<RULES
table bridge cut {
 chain forw {
  type filter hook forward priority 0; policy accept;
  iifname { "a", "b", "c" } oifname { "d", "e", "f" } drop
  iifname { "d", "e", "f" } oifname { "a", "b", "c" } drop
 }
}
RULES
}
heal() { in_host sw nft delete table bridge cut; }

# cut_and_heal SECONDS: prints how long it took until everybody saw everybody again.
cut_and_heal() {
    local begun
    cut
    sleep "$1"
    peers_are a 5 && [ "$1" -ge 20 ] && { fail "after $1 s of a cut a still counts five peers"; return 1; }
    heal
    begun="$(now_ms)"
    until_true 40 all_see_all || {
        fail "40 s after a cut of $1 s: $(for n in "${six[@]}"; do printf '%s sees %s; ' "$n" "$(weft "$n" peers --json | grep -c .)"; done)"
        return 1
    }
    healed="$(seconds_since "$begun")"
}

case_partition() {
    local name index=0 long short flapped round
    switch sw
    for name in "${six[@]}"; do
        index=$((index + 1))
        host "$name"
        plug "$name" eth0 sw "10.0.0.$index/24"
    done
    founder a || return
    for name in b c d e f; do joined "$name" a || return; done
    until_true 20 all_see_all || { fail "six nodes do not see each other"; return; }
    cut_and_heal 20 || return
    short="$healed"
    cut_and_heal 60 || return
    long="$healed"
    for round in 1 2 3 4 5; do
        cut
        sleep 1.5
        heal
        sleep 1.5
    done
    cut_and_heal 3 || return
    flapped="$healed"
    heard a f heal.word || { fail "what a publishes does not reach f after the cuts"; return; }
    if [ "${short%.*}" -ge 10 ] || [ "${long%.*}" -ge 10 ] || [ "${flapped%.*}" -ge 10 ]; then
        fail "healed in $short s after 20 s, $long s after 60 s, $flapped s after flapping; promised: 10 s"
        return
    fi
    ok "healed in $(of_limit "$short" 10) after 20 s, $(of_limit "$long" 10) after 60 s, $(of_limit "$flapped" 10) after flapping"
}

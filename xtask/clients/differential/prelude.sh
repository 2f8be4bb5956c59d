# What every script of the differential begins with. Given: ETCDCTL, ETCDUTL, RELEASE, SERVER
# (`etcd` or `quorate`), SERVER_BINARY, SCRATCH (an empty directory), and of each member its name,
# client address and peer address: N1, M1, P1, …
#
# Standard output is the transcript: `$` a command, `<` what it was given to read, then what it
# said, `!` before what it said on standard error, and `=` its exit code unless that was 0.

set -u
# Later releases know no other, and complain about the variable.
[ "$RELEASE" = 3.4 ] && export ETCDCTL_API=3
ALL=$M1,$M2,$M3
cd "$SCRATCH" || exit 1
: >names.sed
trap 'kill $(jobs -p) 2>/dev/null; wait 2>/dev/null' EXIT

# Runs etcdctl against the first member, unless told where, and records it.
etcdctl() { recorded etcdctl "$ETCDCTL" $(where "$@") "$@"; }

# The same without a record: what differs by right, or prepares what is to be compared.
quietly() { "$ETCDCTL" $(where "$@") "$@" </dev/null; }

# For what is said in the order in which members answer, or of their ids; JSON by its objects.
etcdctl_in_any_order() {
    etcdctl "$@" | {
        read -r command && printf '%s\n' "$command"
        sed -E -f names.sed | sed -E 's/[]},]*,?(\{"|\[|$)/\n\1/g' | LC_ALL=C sort
    }
}

# recorded NAME PROGRAM ARGUMENTS…
recorded() {
    local name=$1 program=$2 status argument
    shift 2
    printf '$ %s' "$name"
    for argument in "$@"; do
        case $argument in
        --endpoints="$M1") ;;
        *[\ \"]* | '') printf " '%s'" "$argument" ;;
        *) printf ' %s' "$argument" ;;
        esac
    done
    printf '\n'
    # Scripts run with nothing to read; what stands in a here-document is read.
    if [ -c /dev/stdin ]; then : >in; else cat >in; fi
    sed 's/^/< /' in
    "$program" "$@" <in >out 2>err
    status=$?
    cat out
    # A line that was not ended would run into the next.
    [ -z "$(tail -c 1 out)" ] || printf '\n'
    sed 's/^/! /' err
    [ $status = 0 ] || echo "= $status"
}

# Where a command goes that does not say so itself.
where() {
    local argument
    for argument in "$@"; do
        case $argument in --endpoints=*) return ;; --) break ;; esac
    done
    echo "--endpoints=$M1"
}

# word N: of what the last recorded command said.
word() { awk -v n="$1" '{ print $n; exit }' out; }

# called NAME ID: masks an id, in hexadecimal and decimal, by a name.
called() {
    local decimal
    [ -n "$2" ] || return
    decimal=$(printf '%u' "0x$2")
    printf 's/\\b(0*%s|%s)\\b/<%s>/g\n' "$2" "$decimal" "$1" >>names.sed
}

# begin NAME ARGUMENTS…: etcdctl in the background.
begin() {
    local name=$1
    shift
    : >"$name.out"
    : >"$name.err"
    "$ETCDCTL" $(where "$@") "$@" <"${FROM:-/dev/null}" >"$name.out" 2>"$name.err" &
    echo $! >"$name.pid"
}

# until_said NAME TEXT: waits until it has said so.
until_said() {
    local try
    for try in $(seq 200); do
        if grep -q -e "$2" "$1.out" "$1.err"; then return; fi
        sleep 0.05
    done
    echo "$1 did not say $2 within 10 s"
}

# end NAME TITLE: asks it to stop, and records what it has said. (An interrupt would be ignored by
# what a script runs in the background.)
end() {
    local status
    kill -TERM "$(cat "$1.pid")" 2>/dev/null
    wait "$(cat "$1.pid")" 2>/dev/null
    status=$?
    echo "\$ $2"
    cat "$1.out"
    sed 's/^/! /' "$1.err"
    [ $status = 0 ] || echo "= $status"
}

# One more server, by itself or of the cluster; `serve NAME ARGUMENTS…` starts it with more flags.
base=${M1##*:}
M4=127.0.0.1:$((base + 10)) P4=127.0.0.1:$((base + 11)) A4=127.0.0.1:$((base + 12))
serve() {
    local name=$1 subcommand=start
    shift
    [ "$SERVER" = etcd ] && subcommand=
    "$SERVER_BINARY" $subcommand --name "$name" --data-dir "$name-data" \
        --listen-client-urls "http://$M4" --advertise-client-urls "http://$M4" \
        --listen-peer-urls "http://$P4" --initial-advertise-peer-urls "http://$P4" \
        --listen-metrics-urls "http://$A4" "$@" >"$name.log" 2>&1 &
    served=$!
    for try in $(seq 150); do
        if quietly get x --consistency=s --endpoints="$M4" --command-timeout=1s >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    echo "$name does not serve: $(tail -n 3 "$name.log")"
}

# Which member leads, as its client address, and the id behind an address.
leader() {
    local address
    for address in "$M1" "$M2" "$M3"; do
        quietly endpoint status -w json --endpoints="$address" |
            sed -nE 's/.*"member_id":([0-9]+).*"leader":([0-9]+).*/\1 \2/p' |
            { read -r member leader && [ "$member" = "$leader" ] && echo "$address"; }
    done
}
id_of() { sed -nE "s|^([0-9a-f]+), .*, http://$1, .*|\1|p" members; }

for member in "$N1 $M1 $P1" "$N2 $M2 $P2" "$N3 $M3 $P3" "n4 $M4 $P4"; do
    read -r name client peer <<<"$member"
    printf 's/\\b%s\\b/<client-%s>/g\ns/\\b%s\\b/<peer-%s>/g\n' \
        "$client" "$name" "$peer" "$name" >>names.sed
done
quietly member list >members
while IFS=', ' read -r id status name rest; do
    called "id-$name" "$id"
done <members

#!/usr/bin/env bash
# A ring to play with: one NATS server and three nodes, until Ctrl-C. `make run` calls it after building.
# Nothing is left running, whatever ends it. Logs and the server's files are in target/run.
set -euo pipefail

NATS_PORT=${NATS_PORT:-4222}
HTTP_PORTS=${HTTP_PORTS:-8081 8082 8083}
RING=${RING:-cache-platform}
BINARY=${BINARY:-target/release/nats-ring}
RUN_DIR=${RUN_DIR:-target/run}
READY_LIMIT_SECONDS=60
DRAIN_LIMIT_SECONDS=20

usage() {
    cat <<END
usage: scripts/run.sh

Starts nats-server (nats/single.conf) and one node per HTTP port, waits until all are ready, and ends all on Ctrl-C.

environment (default):
  NATS_PORT   where NATS listens ($NATS_PORT); where it is taken, the next free of that plus 100, 200, …
  HTTP_PORTS  one node each ($HTTP_PORTS)
  RING        the ring's name ($RING)
  BINARY      the program ($BINARY)
  RUN_DIR     logs and the server's files ($RUN_DIR)

exit codes: 0 ended by Ctrl-C or TERM; 1 something did not start or ended by itself
END
}

case ${1:-} in
    '') ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown option '$1'; see scripts/run.sh --help" >&2; exit 2 ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."

nats_pid=""
node_pids=()
started=""
running=yes

# Who reads the output may be gone; that must not keep this script from ending what it started.
say() { printf '%s\n' "$*" 2>/dev/null || true; }

fail() {
    say "make run: $1" >&2
    if [ -n "${2:-}" ] && [ -f "$2" ]; then
        say "---- last lines of $2" >&2
        tail -n 15 "$2" >&2
    fi
    exit 1
}

alive() { kill -0 "$1" 2>/dev/null; }

# Starts a program with its output in the file $1, in a process group of its own: Ctrl-C then reaches this script
# alone, and the nodes drain while NATS still runs. Its process id is in `started`.
start_apart() {
    local log=$1
    shift
    set -m
    "$@" </dev/null >"$log" 2>&1 &
    started=$!
    set +m
}

# Waits until the processes have ended; those that have not within the limit ($1, seconds) are killed.
end_within() {
    local end=$((SECONDS + $1)) pid
    shift
    for pid in "$@"; do
        while alive "$pid" && [ "$SECONDS" -lt "$end" ]; do sleep 0.1; done
        if alive "$pid"; then kill -KILL "$pid" 2>/dev/null || true; fi
        wait "$pid" 2>/dev/null || true
    done
}

end_all() {
    trap - EXIT
    trap '' INT TERM HUP PIPE
    if [ ${#node_pids[@]} -gt 0 ]; then
        say "ending the nodes (they hand over and drain) …"
        local pid
        for pid in "${node_pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
        end_within "$DRAIN_LIMIT_SECONDS" "${node_pids[@]}"
    fi
    if [ -n "$nats_pid" ]; then
        kill -TERM "$nats_pid" 2>/dev/null || true
        end_within 10 "$nats_pid"
    fi
    say "all ended; logs are in $RUN_DIR"
}
trap end_all EXIT
trap 'running=no' INT TERM HUP PIPE

port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A NATS server greets with one line that begins with INFO.
speaks_nats() {
    local greeting=""
    { exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
    IFS= read -r -t 2 greeting <&3 || true
    exec 3<&- 3>&-
    case $greeting in INFO\ *) return 0 ;; *) return 1 ;; esac
}

choose_nats_port() {
    local asked=$NATS_PORT
    while port_taken "$NATS_PORT"; do
        NATS_PORT=$((NATS_PORT + 100))
        [ "$NATS_PORT" -lt 65000 ] || fail "no free port for NATS: $asked and every hundredth above it are taken"
    done
    [ "$NATS_PORT" = "$asked" ] && return
    if speaks_nats "$asked"; then
        say "port $asked already has a NATS server, which stays as it is: this ring gets its own on port $NATS_PORT"
    else
        say "port $asked is taken by something that is not NATS: this ring's server gets port $NATS_PORT"
    fi
}

start_nats() {
    local server=nats/.bin/nats-server store=$RUN_DIR/nats-$NATS_PORT
    [ -x "$server" ] || server=$(command -v nats-server) || fail "no nats-server: run nats/install.sh"
    # The monitoring port is of no use here, and could be taken.
    sed -e "s|^listen:.*|listen: \"127.0.0.1:$NATS_PORT\"|" -e '/^http:/d' \
        -e "s|store_dir:.*|store_dir: \"$store\"|" nats/single.conf >"$RUN_DIR/nats.conf"
    start_apart "$RUN_DIR/nats.log" "$server" -c "$RUN_DIR/nats.conf"
    nats_pid=$started
    local end=$((SECONDS + 15))
    until speaks_nats "$NATS_PORT"; do
        alive "$nats_pid" || fail "nats-server ended" "$RUN_DIR/nats.log"
        [ "$SECONDS" -lt "$end" ] || fail "nats-server does not listen on port $NATS_PORT" "$RUN_DIR/nats.log"
        [ "$running" = yes ] || exit 0
        sleep 0.1
    done
}

start_nodes() {
    local number=0 port
    for port in $HTTP_PORTS; do
        number=$((number + 1))
        start_apart "$RUN_DIR/node-$number.log" \
            "$BINARY" --node "node-$number" --nats "nats://127.0.0.1:$NATS_PORT" --http ":$port" --platform "$RING"
        node_pids+=("$started")
    done
}

check_all() {
    local at
    alive "$nats_pid" || fail "nats-server ended" "$RUN_DIR/nats.log"
    for at in "${!node_pids[@]}"; do
        alive "${node_pids[$at]}" || fail "node-$((at + 1)) ended" "$RUN_DIR/node-$((at + 1)).log"
    done
}

# Once the ring runs, a node may be killed to see the others take over.
watch_until_stopped() {
    local at left ended=" "
    while [ "$running" = yes ]; do
        alive "$nats_pid" || fail "nats-server ended" "$RUN_DIR/nats.log"
        left=0
        for at in "${!node_pids[@]}"; do
            if alive "${node_pids[$at]}"; then
                left=$((left + 1))
            elif [[ $ended != *" $at "* ]]; then
                ended="$ended$at "
                say "node-$((at + 1)) ended; the others go on (its log: $RUN_DIR/node-$((at + 1)).log)"
            fi
        done
        [ "$left" -gt 0 ] || fail "all nodes have ended" "$RUN_DIR/node-1.log"
        sleep 0.5
    done
}

wait_until_ready() {
    local end=$((SECONDS + READY_LIMIT_SECONDS)) number=0 port
    for port in $HTTP_PORTS; do
        number=$((number + 1))
        until curl --noproxy '*' --silent --fail --max-time 2 --output /dev/null "http://127.0.0.1:$port/ready"; do
            check_all
            [ "$SECONDS" -lt "$end" ] ||
                fail "node-$number is not ready: $(curl --noproxy '*' --silent --max-time 2 "http://127.0.0.1:$port/ready" || echo 'no answer')" \
                    "$RUN_DIR/node-$number.log"
            [ "$running" = yes ] || exit 0
            sleep 0.1
        done
    done
}

what_to_try() {
    local first second third
    # shellcheck disable=SC2086 # one word per port
    set -- $HTTP_PORTS
    first=$1 second=${2:-$1} third=${3:-$1}
    local nats=nats
    if [ -x nats/.bin/nats ]; then nats=nats/.bin/nats; fi
    if [ "$NATS_PORT" != 4222 ]; then nats="$nats -s nats://127.0.0.1:$NATS_PORT"; fi
    cat <<END

The ring '$RING' runs: NATS on port $NATS_PORT, nodes on ports $HTTP_PORTS. Logs: tail -f $RUN_DIR/node-1.log

Try, in another terminal:
  curl -X POST localhost:$first/set -H 'content-type: application/json' -d '{"key":"user:1","value":"Alice"}'
  curl 'localhost:$second/get?key=user:1'       # from any node
  curl 'localhost:$third/owner?key=user:1'
  curl localhost:$first/ring                    # who owns what
  $nats req $RING.get '{"key":"user:1"}'
  $nats micro ls
  kill -9 ${node_pids[0]}                             # node-1 crashes, the others take over

Ctrl-C ends all.
END
}

command -v curl >/dev/null || fail "curl is needed to see when the nodes are ready"
[ -x "$BINARY" ] || fail "$BINARY is not there: run make run, which builds it"
for port in $HTTP_PORTS; do
    if port_taken "$port"; then
        fail "port $port is taken: end what listens there, or choose others with HTTP_PORTS='18081 18082 18083' make run"
    fi
done
mkdir -p "$RUN_DIR"
RUN_DIR=$(cd "$RUN_DIR" && pwd)
choose_nats_port
start_nats
start_nodes
wait_until_ready
what_to_try
watch_until_stopped

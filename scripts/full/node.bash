# Shared by the scripts beside it: a scratch directory, nodes that are started and stopped by their process id, and a
# failure for everything that is missing. Source it, don't run it.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=${CARGO_TARGET_DIR:-$root/target}/debug
scratch=$(mktemp -d)
chmod 0711 "$scratch"
nodes=()

clean_up() {
    local status=$? node
    for node in "${nodes[@]}"; do
        kill "$node" 2>/dev/null && wait "$node" 2>/dev/null
    done
    if [ "$status" -ne 0 ]; then
        tail -n 20 "$scratch"/*.log >&2 2>/dev/null
    fi
    rm -rf "$scratch"
    exit "$status"
}
trap clean_up EXIT

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# need TOOL...: what a full check needs and does not find is a failure.
need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || fail "$tool is missing on this machine"
    done
}

need_root() {
    [ "$(id -u)" -eq 0 ] || fail "this check needs root"
}

need_programs() {
    [ -x "$bin/tram" ] && [ -x "$bin/tramd" ] || fail "$bin has no tram and tramd: run cargo build --workspace --bins"
}

# say COMMAND...: prints a command and runs it.
say() {
    printf '+ %s\n' "$*"
    "$@"
}

# expect STATUS COMMAND...: runs a command that has to end with that exit code.
expect() {
    local wanted=$1 status=0
    shift
    printf '+ %s   # exit code %s\n' "$*" "$wanted"
    "$@" || status=$?
    [ "$status" -eq "$wanted" ] || fail "exit code $status where $wanted was expected"
}

# start NODE_DIR: runs the node until the script ends. Commands wait for its sockets on their own.
start() {
    printf '+ tramd --dir %s run &\n' "$1"
    "$bin/tramd" --dir "$1" run >"$scratch/$(basename "$1").log" 2>&1 &
    nodes+=($!)
}

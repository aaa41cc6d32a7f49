#!/usr/bin/env bash
# A full disk: documents are taken until the spool has no room (exit code 75), everything that was taken comes out whole,
# and then there is room again. Needs root, for a small file system in a mount namespace of its own.
set -euo pipefail
if [ "${1-}" != inside ]; then
    command -v unshare >/dev/null || { echo "FAILED: unshare is missing on this machine" >&2; exit 1; }
    [ "$(id -u)" -eq 0 ] || { echo "FAILED: this check needs root" >&2; exit 1; }
    exec unshare --mount --propagation private "$0" inside
fi
. "$(dirname "$0")/node.bash"

need mount sha256sum
need_programs
node=$scratch/central
mkdir -p "$node/spool"
say mount -t tmpfs -o size=96m,mode=0700 tmpfs "$node/spool"
mounts+=("$node/spool")
say "$bin/tramd" --dir "$node" init --zone tram.test --name central
start "$node"
expect 0 "$bin/tram" --dir "$node" status

# send_one NUMBER: sends 4 MiB of fresh random bytes; keeps their hash when they were taken.
send_one() {
    local status=0
    head -c 4194304 /dev/urandom >"$scratch/document-$1"
    "$bin/tram" --dir "$node" send --to vanban@central "$scratch/document-$1" >/dev/null || status=$?
    if [ "$status" -eq 0 ]; then
        sha256sum <"$scratch/document-$1" >>"$scratch/taken"
    fi
    rm "$scratch/document-$1"
    return "$status"
}

taken=0 status=0
: >"$scratch/taken"
while [ "$taken" -lt 30 ]; do
    send_one "$taken" || { status=$?; break; }
    taken=$((taken + 1))
done
echo "$taken documents of 4 MiB were taken, then exit code $status"
[ "$status" -eq 75 ] || fail "exit code $status where 75 was expected"
[ "$taken" -ge 3 ] || fail "the spool took next to nothing"
df -h "$node/spool"
for again in 1 2 3; do
    status=0
    send_one "again-$again" || status=$?
    [ "$status" -eq 75 ] || fail "exit code $status on a full spool"
done

expect 0 "$bin/tram" --dir "$node" recv --inbox vanban --count "$taken" --timeout 60s --out "$scratch/out"
(cd "$scratch/out" && for file in document-*; do sha256sum <"$file"; done) | sort >"$scratch/came"
sort "$scratch/taken" | cmp - "$scratch/came" || fail "what came out is not what was taken"

room=no
for second in $(seq 60); do
    if send_one "later-$second" 2>/dev/null; then
        room=yes
        break
    fi
    sleep 1
done
[ "$room" = yes ] || fail "there is no room again 60 s after everything was received"
expect 0 "$bin/tram" --dir "$node" recv --inbox vanban --count 1 --timeout 20s --out "$scratch/later"
echo "a full disk lost nothing, and there is room again"

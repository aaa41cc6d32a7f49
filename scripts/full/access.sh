#!/usr/bin/env bash
# Two users of one machine: a rule of the config lets one send and receive, the other gets exit code 77. Needs root, to
# become the users daemon and nobody, which every system has.
set -euo pipefail
. "$(dirname "$0")/node.bash"

need_root
need setpriv cmp
need_programs
for user in daemon nobody; do
    id "$user" >/dev/null 2>&1 || fail "this machine has no user $user"
done

# as USER COMMAND...
as() {
    local user=$1
    shift
    setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups --no-new-privs "$@"
}

# Other users may not be able to look into the build directory.
install -m 0755 "$bin/tram" "$scratch/tram"
node=$scratch/central
say "$bin/tramd" --dir "$node" init --zone tram.test --name central
cat >>"$node/tramd.toml" <<'END'

[[access.rule]]
users = ["daemon"]
inboxes = ["vanban"]
send = ["routine"]
END
start "$node"
expect 0 "$bin/tram" --dir "$node" status

head -c 100000 /dev/urandom >"$scratch/document"
chmod 0644 "$scratch/document"
out=$scratch/out
install -d -o daemon -m 0700 "$out"

expect 77 as nobody "$scratch/tram" --dir "$node" send --to vanban@central "$scratch/document"
expect 77 as daemon "$scratch/tram" --dir "$node" send --to vanban@central --precedence flash "$scratch/document"
expect 0 as daemon "$scratch/tram" --dir "$node" send --to vanban@central "$scratch/document"
expect 77 as nobody "$scratch/tram" --dir "$node" recv --inbox vanban --count 1 --timeout 5s --out /tmp
expect 0 as daemon "$scratch/tram" --dir "$node" recv --inbox vanban --count 1 --timeout 20s --out "$out"
cmp "$scratch/document" "$out/document" || fail "other bytes came back"
as daemon "$scratch/tram" --dir "$node" inbox create another && fail "an application's user may administer"
for secret in pki spool; do
    as daemon ls "$node/$secret" >/dev/null 2>&1 && fail "another user can look into $secret"
done
echo "one user has access, the other has not"

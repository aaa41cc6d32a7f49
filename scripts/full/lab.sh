#!/usr/bin/env bash
# A document over 200 Mbit/s with 100 ms and 1 % loss, and flash beside bulk, over emulated lines: fails when the figures
# are missed by far. Needs root and /dev/net/tun. scripts/bench measures; this only notices what broke.
set -euo pipefail
cd "$(dirname "$0")/../.."
fail() {
    echo "FAILED: $*" >&2
    exit 1
}
for tool in ip setpriv; do
    command -v "$tool" >/dev/null || fail "$tool is missing on this machine"
done
[ "$(id -u)" -eq 0 ] || fail "this check needs root"
if [ ! -e /dev/net/tun ]; then
    mkdir -p /dev/net && mknod /dev/net/tun c 10 200 || fail "there is no /dev/net/tun, and it cannot be made"
fi
set -x
# With the whole workspace, so that what `cargo test --workspace` has built is used.
exec cargo bench --quiet --locked --profile dev --workspace --bench links -- check

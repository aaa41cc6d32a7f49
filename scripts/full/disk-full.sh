#!/usr/bin/env bash
# Full disks of a sender, a relay and a destination: senders are told to try again, nothing is lost, and everything flows
# when there is room again. Needs root, for a small file system in a mount namespace of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v unshare >/dev/null || { echo "FAILED: unshare is missing on this machine" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || { echo "FAILED: this check needs root" >&2; exit 1; }
set -x
exec unshare --mount --propagation private \
    cargo test --quiet --locked -p tram-tests --test e2e disk_full -- --ignored --nocapture --test-threads 1

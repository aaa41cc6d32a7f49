#!/usr/bin/env bash
# An application in another language: Python sends 64 MiB through a lone node and receives them again, with nothing of
# ours but the schema. Needs python3 with venv, and a package index or an earlier run for grpcio.
set -euo pipefail
. "$(dirname "$0")/node.bash"

need python3
need_programs
python3 -c 'import venv, ensurepip' 2>/dev/null || fail "python3 has no venv: install python3-venv"
venv=${CARGO_TARGET_DIR:-$root/target}/python
if ! "$venv/bin/python" -c 'import grpc, grpc_tools' 2>/dev/null; then
    say python3 -m venv "$venv"
    say "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$root/tests/python/requirements.txt"
fi

node=$scratch/central
say "$bin/tramd" --dir "$node" init --zone tram.test --name central
start "$node"
expect 0 "$bin/tram" --dir "$node" status
say "$venv/bin/python" "$root/tests/python/roundtrip.py" "$node/app.sock" vanban@central $((64 * 1024 * 1024))

#!/usr/bin/env bash
# 2 GiB over two lines that are cut ten times: hardly anything is sent again. Needs no root, but minutes and 10 GiB of disk.
set -euo pipefail
cd "$(dirname "$0")/../.."
set -x
exec cargo test --quiet --locked -p tram-tests --test e2e cuts -- --ignored --nocapture

#!/usr/bin/env bash
# The tests on a busy machine: four processes that never rest beside `make test`, as often as asked.
#
#   scripts/test_busy.sh [TIMES]     3 times unless said otherwise; exit code 0 if every one was green
set -euo pipefail
cd "$(dirname "$0")/.."

busy=()
trap 'kill "${busy[@]}"' EXIT
for _ in 1 2 3 4; do
    (while :; do :; done) &
    busy+=($!)
done
for time in $(seq "${1:-3}"); do
    printf '== make test beside four busy processes, time %s\n' "$time"
    make test
done

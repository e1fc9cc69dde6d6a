#!/usr/bin/env bash
# `sluice serve` under load from the same machine: 64 streams beside 2,000 idle connections, 16 streams beside `sluice
# bench decode`, a prefix that requests share. Prints figures, fails on errors; docs/benchmarks.md says what they were.
# usage: [SECONDS_OF_LOAD=60] [ROUNDS=3] [MAX_TOKENS=128] tests/web/load.sh SLUICE MODEL [OPTION OF serve...]
set -euo pipefail
SLUICE=$(realpath "$1") MODEL=$(realpath "$2")
shift 2
cd "$(dirname "$0")/../.."
ulimit -n "$(ulimit -Hn)"
# So few tokens of cache are all in use after the warm-up.
export TEXT=data/demo/austen.txt SECONDS_OF_LOAD=${SECONDS_OF_LOAD:-60} ROUNDS=${ROUNDS:-3} MAX_TOKENS=${MAX_TOKENS:-128}
node tests/web/load/measure.mjs "$SLUICE" "$MODEL" --kv-cache-tokens 65536 "$@"

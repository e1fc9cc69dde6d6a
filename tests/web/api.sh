#!/usr/bin/env bash
# `sluice serve` with a tiny random model and real clients: npm's openai, raw requests as DeepSeek's clients send them,
# promtool; and killed again and again.
# usage: tests/web/api.sh SLUICE
set -euo pipefail
SLUICE=$(realpath "$1")
cd "$(dirname "$0")/../.."
npm --prefix tests/web/api ci --ignore-scripts --no-audit --no-fund --loglevel=error
export SLUICE TEXT=data/demo/austen.txt KILLS=${KILLS:-32}
node --test tests/web/api/*_test.mjs tests/web/load/kill_test.mjs

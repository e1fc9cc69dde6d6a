#!/usr/bin/env bash
# The page in Chromium against `sluice serve` with small trained models; tests/web/page.sh takes a mock for the server. With
# SHOTS=FOLDER the tests leave screenshots there.
# usage: tests/web/page_real.sh SLUICE
set -euo pipefail
SLUICE=$(realpath "$1")
cd "$(dirname "$0")/../.."
[ -d web/node_modules ] || npm --prefix web ci --ignore-scripts --no-audit --no-fund --loglevel=error
SLUICE=$SLUICE TEXT=data/demo/austen.txt node tests/web/page/real.mjs

#!/usr/bin/env bash
# `sluice serve` under load for SECONDS_OF_LOAD=90 and through its ends. For a build with the thread sanitizer.
# usage: tests/web/soak.sh SLUICE
set -euo pipefail
SLUICE=$(realpath "$1")
cd "$(dirname "$0")/../.."
export SLUICE TEXT=data/demo/austen.txt SECONDS_OF_LOAD=${SECONDS_OF_LOAD:-90} KILLS=${KILLS:-8}
# The sanitizer of GCC 12 needs addresses that are not randomised as far as newer kernels do.
TSAN_OPTIONS="exitcode=66 ${TSAN_OPTIONS:-}" setarch "$(uname -m)" -R node --test tests/web/load/*_test.mjs

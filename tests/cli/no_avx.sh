#!/usr/bin/env bash
# Runs a command on an emulated processor that lacks AVX2, where an instruction chosen wrongly ends it with SIGILL.
# usage: tests/cli/no_avx.sh CPU COMMAND [ARGUMENT ...]
#   CPU: Nehalem (nothing above SSE4.2: the portable code), Westmere (Highway's SSE4), SandyBridge (AVX without AVX2)
# Exits with 77 (skipped) where the emulator is missing or the machine is not x86-64; otherwise as the command does.
set -euo pipefail
cpu=${1:?expected CPU COMMAND ...}
shift

if [ "$(uname -m)" != x86_64 ] || ! command -v qemu-x86_64 >/dev/null; then
  echo "skipped: needs qemu-user on x86-64 (tools/install-packages.sh test)"
  exit 77
fi
command=$(command -v "$1") || { echo "$0: $1: expected a program" >&2; exit 2; }
shift

# The emulator warns about features of the named processor that it does not have; they are not the command's output.
ulimit -c 0
exec 3>&2
status=0
{ qemu-x86_64 -cpu "$cpu" "$command" "$@" 2>&1 >&4 | { grep -v "^qemu-x86_64: warning: TCG doesn't support" >&3 || true; }; } 4>&1 ||
  status=$?
[ "$status" != 132 ] || echo "$0: illegal instruction on $cpu" >&2
exit "$status"

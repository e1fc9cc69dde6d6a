#!/usr/bin/env bash
# Half an hour of training on the bundled texts with the `small` shape (runs/half-hour.yaml), evaluated on the last novel
# and the last tenth of the poems; then it writes.
#   runs/half-hour.sh [SLUICE] [OUT]
set -eu
sluice=${1:-build/cpu/sluice}
out=${2:-out/half-hour}
here=$(cd "$(dirname "$0")/.." && pwd)
CONFIG=$here/runs/half-hour.yaml WEIGHTS="" exec "$here/runs/demo.sh" "$sluice" "$out"

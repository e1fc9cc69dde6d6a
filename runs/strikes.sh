#!/usr/bin/env bash
# Ranks struck at random moments, STRIKES of each kind (killed, stopped, out of disk, weights that are not numbers): how
# long it took until every rank left had said which one it was, and until all had ended; prints a Markdown table. Every
# struck run must then be that of nobody struck, also on other numbers of ranks, or this fails.
#   runs/strikes.sh [MPI_TEST]        STRIKES=20 SEED=1 KINDS="Killed Stopped FullDisk NotNumbers" to choose
set -eu
test=${1:-build/mpi/tests/mpi_test}
export SLUICE_STRIKES=${STRIKES:-20} SLUICE_SEED=${SEED:-1}
printf '| a rank that is | strikes | named after (median, s) | at most | all ended after (median, s) | at most |\n|---|---|---|---|---|---|\n'
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for kind in ${KINDS:-Killed Stopped FullDisk NotNumbers}; do
  case $kind in
    Killed) name=AKilledRank ;;
    Stopped) name=AStoppedRank ;;
    FullDisk) name=ARankWithAFullDisk ;;
    NotNumbers) name=ARankWithWeights ;;
    *) echo "unknown kind $kind" >&2; exit 2 ;;
  esac
  "$test" --gtest_filter="Strike.$name*" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
  grep '^| ' "$log"
done

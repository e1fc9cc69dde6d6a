#!/usr/bin/env bash
# Training on 1 to 8 ranks of this machine, one thread each: tokens/s (median over the steps of ROUNDS runs in turn, the
# first five steps of each left out) and bytes that go between ranks for a token, by kind. Strong: 16 sequences a step
# whatever the ranks; weak: 4 for each rank. Prints a Markdown table. Ranks beyond the cores only show what they cost.
#   runs/scaling.sh [SLUICE] [OUT]          ROUNDS=3 STEPS=25 LAYOUTS="data experts stages" RANKS="1 2 4 8" to choose
set -eu
sluice=${1:-build/mpi/sluice}
out=${2:-out/scaling}
here=$(cd "$(dirname "$0")/.." && pwd)
rounds=${ROUNDS:-3} steps=${STEPS:-25} layouts=${LAYOUTS:-data experts stages} ranks=${RANKS:-1 2 4 8}
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
mkdir -p "$out"
[ -d "$out/tokenizer" ] || "$sluice" tokenizer train --data "$here/data/demo/austen.txt" --vocab-size 1024 --out "$out/tokenizer"

keys() {  # LAYOUT RANKS: how they share the model
  case $1 in
    data) ;;
    experts) echo "expert_parallel=$2" ;;
    stages) [ "$2" -gt 4 ] && echo "pipeline_parallel=4 schedule=zb1p" || echo "pipeline_parallel=$2 schedule=zb1p" ;;
    *) echo "unknown layout $1" >&2; exit 2 ;;
  esac
}
run() {  # LAYOUT SCALING RANKS ROUND
  local batch=16 folder=$out/$1-$2-$3-$4 start=
  [ "$2" = weak ] && batch=$((4 * $3))
  [ "$3" -gt 1 ] && start="mpirun -n $3"
  rm -rf "$folder"
  # shellcheck disable=SC2046,SC2086
  $start "$sluice" train --data "$here/data/demo/austen.txt" --tokenizer "$out/tokenizer" --size tiny --out "$folder" \
    --steps "$steps" threads=1 seq_len=128 batch_size=$batch micro_batch=2 eval_every=0 save_every=0 $(keys "$1" "$3") \
    2>"$folder.log" || { tail -n 3 "$folder.log" >&2; exit 1; }
}
field() { grep -o "\"$1\":[0-9.e+-]*" | cut -d: -f2; }
per_token() {  # KIND FOLDER
  local line; line=$(grep '"kind":"traffic"' "$2/metrics.jsonl" 2>/dev/null | tail -n 1) || { echo 0; return; }
  echo "$(field "$1" <<<"$line") $(field tokens <<<"$line")" | awk '{ printf "%.0f", $1 / $2 }'
}
for round in $(seq "$rounds"); do
  for layout in $layouts; do for scaling in strong weak; do for n in $ranks; do run "$layout" $scaling "$n" "$round"; done; done; done
done
printf '| layout | scaling | ranks | tokens/s | times one rank | bytes/token: experts | stages | gradients | weights |\n'
printf '|---|---|---|---|---|---|---|---|---|\n'
for layout in $layouts; do
  for scaling in strong weak; do
    one=
    for n in $ranks; do
      speed=$(for round in $(seq "$rounds"); do
        grep '"kind":"step"' "$out/$layout-$scaling-$n-$round/metrics.jsonl" | tail -n +6 | field tokens_per_second
      done | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }')
      one=${one:-$speed} folder=$out/$layout-$scaling-$n-1
      awk -v a="$speed" -v b="$one" -v head="| $layout | $scaling | $n " -v e="$(per_token experts "$folder")" \
        -v s="$(per_token stages "$folder")" -v g="$(per_token gradients "$folder")" -v w="$(per_token weights "$folder")" \
        'BEGIN { printf "%s| %.0f | %.2f | %s | %s | %s | %s |\n", head, a, a / b, e, s, g, w }'
    done
  done
done

#!/usr/bin/env bash
# What each part of the recipe does: runs of equal length on the demo's text, SEEDS seeds each; prints a Markdown table
# (mean and deviation of the held-out loss on Persuasion, and MaxVio over it) and the relative difference of FP8 and BF16.
#   runs/ablations.sh [SLUICE] [OUT]        STEPS=300 SEEDS="1 2 3" VARIANTS="moe dense ..." to choose
set -eu
sluice=${1:-build/cpu/sluice}
out=${2:-out/ablations}
here=$(cd "$(dirname "$0")/.." && pwd)
steps=${STEPS:-300} seeds=${SEEDS:-1 2 3}
variants=${VARIANTS:-moe dense no-mtp no-balance auxiliary-loss bf16 fp8}
"$here/runs/demo-texts.sh" "$out/text"
[ -d "$out/tokenizer" ] || "$sluice" tokenizer train --data "$out/text/austen.txt" --vocab-size 4096 --out "$out/tokenizer"

keys() {  # the settings that make a variant
  case $1 in
    moe) ;;
    dense) echo "model=$here/configs/models/tiny-dense.json" ;;  # equal FLOPs: width of 2 routed + 1 shared expert
    no-mtp) echo "mtp_modules=0" ;;
    no-balance) echo "bias_speed=0 balance_alpha=0" ;;
    auxiliary-loss) echo "bias_speed=0 balance_alpha=0.01" ;;
    bf16 | fp8) echo "precision=$1" ;;
    *) echo "unknown variant $1" >&2; exit 2 ;;
  esac
}
for variant in $variants; do
  for seed in $seeds; do
    run=$out/$variant-$seed
    grep -q '"kind":"eval"' "$run/metrics.jsonl" 2>/dev/null && continue
    rm -rf "$run"
    # shellcheck disable=SC2046
    "$sluice" train --config "$here/runs/demo.yaml" --data "$out/text/austen.txt" --eval "$out/text/persuasion.txt" --out "$run" \
      tokenizer="$out/tokenizer" batch_size=8 micro_batch=8 lr=4e-3 time="" steps="$steps" seed="$seed" eval_every=0 \
      save_every=0 $(keys "$variant") 2>"$run.log" ||
      { tail -n 2 "$run.log" >&2; exit 1; }
  done
done
field() { grep '"kind":"eval"' "$2" | tail -n 1 | grep -o "\"$1\":[0-9.e+-]*" | cut -d: -f2; }
printf '| variant | held-out loss | deviation | bits per byte | MaxVio |\n|---|---|---|---|---|\n'
for variant in $variants; do
  for seed in $seeds; do
    file=$out/$variant-$seed/metrics.jsonl
    echo "$(field loss "$file") $(field bits_per_byte "$file") $(field max_vio "$file")"
  done | awk -v name="$variant" '
    { n++; a += $1; aa += $1 * $1; b += $2; v += $3 }
    END { d = n > 1 ? sqrt((aa - a * a / n) / (n - 1)) : 0
          printf "| %s | %.4f | %.4f | %.4f | %s |\n", name, a / n, d, b / n, (v > 0 ? sprintf("%.2f", v / n) : "-") }'
done

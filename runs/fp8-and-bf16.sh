#!/usr/bin/env bash
# Trains one small model twice on the bundled texts, in FP8 and in BF16 with the same data in the same order, and prints how
# far the losses lie apart; then writes with the FP8 one.
#   runs/fp8-and-bf16.sh [SLUICE] [OUT]      DEVICE=cuda STEPS=1500 (a minute each on an H100)
# Held out: the last novel (Persuasion) and the last tenth of the poems.
set -eu
sluice=${1:-build/cuda/sluice}
out=${2:-out/fp8-and-bf16}
here=$(cd "$(dirname "$0")/.." && pwd)
rm -rf "$out"
"$here/runs/demo-texts.sh" "$out/text"

for precision in fp8 bf16; do
  "$sluice" train --config "$here/runs/fp8-and-bf16.yaml" --out "$out/$precision" \
    --data "$out/text/austen.txt=0.7" "$out/text/tang.txt=0.3" \
    --eval "$out/text/persuasion.txt" "$out/text/tang-heldout.txt" \
    precision="$precision" device="${DEVICE:-cuda}" steps="${STEPS:-1500}"
done

# "step loss" of every step; means of tenths of the run, and how far apart.
losses() { sed -n 's/^{"kind":"step","step":\([0-9]*\),.*"loss_main":\([0-9.e+-]*\),.*/\1 \2/p' "$1/metrics.jsonl"; }
paste -d ' ' <(losses "$out/fp8") <(losses "$out/bf16") | awk -v steps="${STEPS:-1500}" '
  { part = int(($1 - 1) * 10 / steps); fp8[part] += $2; bf16[part] += $4; n[part]++ }
  END {
    print "tenth of the run   FP8 loss   BF16 loss   apart"
    for (i = 0; i < 10; i++) printf "%-18d %.4f     %.4f      %+.3f%%\n", i + 1, fp8[i] / n[i], bf16[i] / n[i], 100 * (fp8[i] / bf16[i] - 1)
  }'
write() { printf '\n> %s\n' "$1"; "$sluice" generate --model "$out/fp8" --prompt "$1" --max-tokens 120 --temperature 0.7 --top-p 0.8 --seed 7; }
write "Anne could not help thinking that"
write "春风"

#!/usr/bin/env bash
# Trains a small DeepSeek-V3-architecture model on the bundled English and Chinese text and lets it write.
#   runs/demo.sh [SLUICE] [OUT]        CONFIG=runs/other.yaml to train another, WEIGHTS="=1 =1" of the two texts ("": by size)
# Held out: the last novel (Persuasion) and the last tenth of the poems. 6 x 2.6M active parameters x ~2M tokens is about
# 4e13 floating-point operations: two minutes on two cores.
set -eu
sluice=${1:-build/cpu/sluice}
out=${2:-out/demo}
here=$(cd "$(dirname "$0")/.." && pwd)
rm -rf "$out"
"$here/runs/demo-texts.sh" "$out/text"

# The novels are two thirds of the text, but a vocabulary of Latin words needs more of it than one of single characters.
read -r english chinese <<<"${WEIGHTS-=0.7 =0.3}" || true
"$sluice" train --config "${CONFIG:-$here/runs/demo.yaml}" --out "$out/run" \
  --data "$out/text/austen.txt$english" "$out/text/tang.txt$chinese" --eval "$out/text/persuasion.txt" "$out/text/tang-heldout.txt"

write() { printf '\n> %s\n' "$1"; "$sluice" generate --model "$out/run" --prompt "$1" --max-tokens 120 --temperature 0.7 --top-p 0.8 --seed 7; }
write "Anne could not help thinking that"
write "春风"
printf '\nThe model is in %s/run/latest, the curves in %s/run/report.html\n' "$out" "$out"

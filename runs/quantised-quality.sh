#!/usr/bin/env bash
# What each format of weights costs, on the start of the demo's held-out text; prints two Markdown tables. The first
# compares a quantised model with its own weights dequantised to float32: what is left is the rounding of activations.
# The second compares it with the float32 model: what the rounding of weights costs in quality.
#   runs/quantised-quality.sh [SLUICE] [OUT of demo.sh]        TYPES="q8_0 q4_k" BYTES=8192 to choose
set -eu
sluice=${1:-build/cpu/sluice}
out=${2:-out/demo}
types=${TYPES:-f32 bf16 fp8 q8_0 q6_k q5_k q4_k q4_0 iq4_nl q3_k q2_k}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
head -c "${BYTES:-8192}" "$out/text/persuasion.txt" >"$work/text.txt"
compare() { "$sluice" compare --model "$1" --reference "$2" --data "$work/text.txt" --json; }
bits() { grep -o "[0-9.]* bits each" <<<"$1" | cut -d" " -f1; }

for type in $types; do
  model=$work/$type.gguf
  [ "$type" = fp8 ] && model=$work/fp8
  echo "$type $(bits "$("$sluice" quantize "$out/run" --type "$type" --out "$model")")" >>"$work/bits"
  "$sluice" quantize "$model" --type f32 --out "$work/dequantised.gguf" >/dev/null
  compare "$model" "$work/dequantised.gguf" >"$work/$type.own"
  compare "$model" "$out/run" >"$work/$type.f32"
done
field() { grep -o "\"$1\":[0-9.e+-]*" "$2" | cut -d: -f2; }
percent() { awk -v x="$1" 'BEGIN { printf "%.2f%%", 100 * x }'; }
small() { awk -v x="$1" 'BEGIN { printf "%.1e", x }'; }

echo "Against the model's own weights in float32 ($(field tokens "$work/${types%% *}.own") tokens):"
echo
echo '| type | NMSE where all experts agree | their share | NMSE | mean KL | same top token |'
echo '|---|---|---|---|---|---|'
for type in $types; do
  f=$work/$type.own
  echo "| $type | $(small "$(field nmse_where_experts_agree "$f")") | $(percent "$(field experts_agree "$f")") |" \
    "$(small "$(field nmse "$f")") | $(small "$(field kl "$f")") | $(percent "$(field same_top "$f")") |"
done
echo
echo 'Against the float32 model:'
echo
echo '| type | bits per weight | perplexity | to float32 | mean KL | same top token |'
echo '|---|---|---|---|---|---|'
while read -r type bits; do
  f=$work/$type.f32
  echo "| $type | $bits | $(field perplexity "$f" | awk '{ printf "%.3f", $1 }') |" \
    "$(awk -v a="$(field perplexity "$f")" -v b="$(field reference_perplexity "$f")" 'BEGIN { printf "%+.2f%%", 100 * (a / b - 1) }') |" \
    "$(small "$(field kl "$f")") | $(percent "$(field same_top "$f")") |"
done <"$work/bits"

#!/usr/bin/env bash
# How good is what the demo writes: of 2,000 English tokens, the share of words that occur in the novels (the last of each
# text may be cut and is left out), and distinct-4
# (the share of different ones among all runs of four tokens).
#   runs/demo-check.sh [SLUICE] [OUT of demo.sh]
set -eu
sluice=${1:-build/cpu/sluice}
out=${2:-out/demo}
here=$(cd "$(dirname "$0")/.." && pwd)
text=$out/check.txt ids=$out/check.ids
words() { tr -cs "A-Za-z" '\n' <"$1" | tr 'A-Z' 'a-z' | grep .; }
: >"$text"; : >"$ids"
seed=0
while [ "$(wc -w <"$ids")" -lt 2000 ]; do
  seed=$((seed + 1))
  "$sluice" generate --model "$out/run" --prompt "The day after, Anne" --max-tokens 500 --temperature 0.7 --top-p 0.8 --seed $seed \
    2>/dev/null >"$out/check.part"
  words "$out/check.part" | head -n -1 >>"$text"
  "$sluice" tokenizer encode --model "$out/run/latest" --file "$out/check.part" 2>/dev/null >>"$ids"
done
words "$here/data/demo/austen.txt" | sort -u >"$out/check.words"
awk -v list="$out/check.words" '
  BEGIN { while ((getline w < list) > 0) known[w] = 1 }
  { n++; if ($1 in known) k++ }
  END { printf "words that occur in the novels: %.1f%% of %d\n", 100 * k / n, n }' "$text"
tr -s ' \n' '\n' <"$ids" | awk '
  NF { id[++n] = $1 }
  END { for (i = 1; i + 3 <= n; i++) { key = id[i] " " id[i+1] " " id[i+2] " " id[i+3]; all++; if (!(key in seen)) d++; seen[key] = 1 }
        printf "distinct-4: %.3f over %d tokens\n", d / all, n }'

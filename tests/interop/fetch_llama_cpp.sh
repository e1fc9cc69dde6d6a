#!/bin/sh
# Installs node-llama-cpp (prebuilt llama.cpp) from npm into DIR, for tests only. Without npm or the network it says so
# and ends with 77 (skipped).
set -u
dir=${1:?usage: fetch_llama_cpp.sh DIR}
if ! command -v npm >/dev/null; then
  echo "skipped: npm is not installed (apt install npm)"
  exit 77
fi
if ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; then
  echo "skipped: node-llama-cpp needs Node.js 20, found $(node --version)"
  exit 77
fi
mkdir -p "$dir"
if [ ! -e "$dir/complete" ]; then
  arch=$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/')
  npm install --prefix "$dir" --no-audit --no-fund --loglevel=error --ignore-scripts --omit=optional \
    node-llama-cpp@3.22.1 "@node-llama-cpp/linux-$arch@3.22.1" || {
    echo "skipped: npm cannot install node-llama-cpp"
    exit 77
  }
  # Its AMX path aborts on the 3-D attn_k_b of every file in a format it repacks; the next best library is chosen.
  rm -f "$dir"/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64/libggml-cpu-sapphirerapids.so
  touch "$dir/complete"
fi
echo "installed in $dir"

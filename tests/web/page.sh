#!/usr/bin/env bash
# The page: that web/dist is what `make web` builds, that its types hold, and how it behaves in Chromium, against a mock of
# the server or the server at URL (PAGE_KEY: its API key). With SHOTS=FOLDER the tests leave screenshots there.
# usage: tests/web/page.sh [URL]
set -euo pipefail
cd "$(dirname "$0")/../.."

npm --prefix web ci --ignore-scripts --no-audit --no-fund --loglevel=error
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd web && npx tsc && node build.mjs "$work/dist")
for built in dist licenses.txt; do
  if ! diff -rq "$work/$built" "web/$built"; then
    echo "web/$built: expected what web/src builds to, byte for byte; run 'make web' and commit it" >&2
    exit 1
  fi
done
size=$(cat web/dist/* | wc -c)
if [ "$size" -gt 400000 ]; then
  echo "web/dist: expected at most 400,000 bytes, found $size" >&2
  exit 1
fi
PAGE_URL=${1:-} node --test tests/web/page/*_test.mjs

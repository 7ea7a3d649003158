#!/usr/bin/env bash
# Makes the locks requirements*.txt anew from the loose *.in files.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

uv=$(command -v uv || echo build/uv/bin/uv)
[[ -x $uv ]] || { echo "lock: uv is needed to make the lock" >&2; exit 1; }

for name in requirements requirements-serve requirements-dev; do # each is constrained by those before
  "$uv" pip compile -q --upgrade --python-version 3.9 --no-emit-index-url --no-emit-find-links \
    --custom-compile-command "make lock" "$name.in" -o "$name.txt"
done

#!/usr/bin/env bash
# Write the hashed lock files from pyproject.toml. They name no host, so any index or mirror serves them.
# Present pins are kept while they satisfy pyproject.toml; UPGRADE=1 takes the newest versions instead.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=.venv/bin/uv
command -v "$uv" >/dev/null || uv=uv
command -v "$uv" >/dev/null || { echo "lock: uv is needed: run 'make venv', or install it with 'pip install uv'" >&2; exit 2; }

lock() { # lock FILE ARGUMENT... : resolve for every Python from 3.11 on, on every platform
  local file=$1 upgrade=()
  shift
  [ -z "${UPGRADE:-}" ] || upgrade=(--upgrade)
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-header "${upgrade[@]}" "$@" --output-file "$file" >/dev/null
  echo "lock: $file: $(grep -c '^[a-z0-9]' "$file") packages"
}

# each file constrains the next one, so that what is tested is what is shipped
lock requirements.lock pyproject.toml --extra postgres --extra uvloop
lock requirements-dev.lock pyproject.toml --extra postgres --extra uvloop --group dev --constraints requirements.lock
lock requirements-build.lock --group build --constraints requirements-dev.lock

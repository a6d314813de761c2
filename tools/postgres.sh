#!/usr/bin/env bash
# Make sure that the server programs of PostgreSQL are here: the tests start a server of their own from them.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/apt.sh

has_server() { # where tests/postgres.py looks
  local folder
  for folder in /usr/lib/postgresql/*/bin "$(dirname "$(command -v postgres || echo /none/postgres)")"; do
    [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ] && return 0
  done
  return 1
}

# the tests can be told to do without; they then say what they did not check
[ "${KBS_RIM_TEST_WITHOUT_POSTGRES:-}" != 1 ] || exit 0
has_server || apt_install "make test needs PostgreSQL's server programs" postgresql
has_server || { echo "make test: no initdb and postgres, although the package postgresql is installed" >&2; exit 2; }

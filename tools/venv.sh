#!/usr/bin/env bash
# Make .venv from requirements-dev.lock with this repository installed in it. Does nothing when that is done already.
# PYTHON=... chooses the interpreter (3.11 or newer).
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/apt.sh

stamp=.venv/.made-from
wanted=$({ cat requirements-dev.lock pyproject.toml hatch_build.py kbs_rim/measurement/_chain_kernel.c tools/venv.sh; echo "${RIM_KERNEL:-}"; pwd; } | sha256sum | cut -d' ' -f1)
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
  exit 0
fi

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
can_make_venv() { new_enough "$1" && "$1" -c 'import ensurepip, venv' 2>/dev/null; }
candidates=("${PYTHON:-}" python3 python3.13 python3.12 python3.11 /usr/bin/python3)
[ -z "${PYTHON:-}" ] || candidates=("$PYTHON")

find_python() {
  local candidate
  for candidate in "${candidates[@]}"; do
    if [ -n "$candidate" ] && can_make_venv "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

if ! { [ -x .venv/bin/python ] && new_enough .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
  if ! python=$(find_python); then
    # Debian ships Python without ensurepip: python3-venv brings it, and Python itself where there is none
    apt_install "make venv needs Python 3.11 or newer with venv" python3 python3-venv
    python=$(find_python) || {
      echo "make venv: no Python 3.11 or newer that can make virtual environments; name one: make venv PYTHON=/path/to/python3" >&2
      exit 2
    }
  fi
  echo "make venv: $("$python" --version) at $python" >&2
  "$python" -m venv --clear .venv
fi

rm -f "$stamp"
pip=(.venv/bin/python -m pip --disable-pip-version-check --no-input --quiet)
"${pip[@]}" install --require-hashes --no-deps --requirement requirements-dev.lock
"${pip[@]}" install --no-deps --no-build-isolation --editable .
"${pip[@]}" check >&2
echo "$wanted" >"$stamp"
echo "make venv: .venv is ready; '. .venv/bin/activate' puts kbs-rim on the PATH" >&2

# Sourced by the scripts beside it: install a Debian package that is missing, and say so.
# shellcheck shell=bash

apt_install() { # apt_install WHY PACKAGE... : exit 2 with an explanation where that is impossible
  local why=$1 as_root=()
  shift
  if ! command -v apt-get >/dev/null; then
    echo "$why: install what corresponds to Debian's $* and try again (this system has no apt-get)" >&2
    exit 2
  fi
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null || ! { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
      echo "$why: run 'apt-get install $*' as root and try again" >&2
      exit 2
    fi
    as_root=(sudo)
  fi
  echo "$why: installing the Debian package(s) $*" >&2
  local log
  log=$(mktemp)
  if ! {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@" ||
      { # the package lists may be missing or old
        "${as_root[@]}" apt-get update &&
          "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
      }
  } >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    echo "$why: apt-get could not install $*" >&2
    exit 2
  fi
  rm -f "$log"
}

#!/usr/bin/env bash
# Make the secret files that docker-compose.yml mounts, in the folder given. Files that exist stay as they are.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:?name the folder to write to}

# Compose mounts each file with its mode, and the containers' users are not the owner: the files must be readable by all.
# The folder is what keeps other users of this machine out.
umask 077
mkdir -p "$folder"
chmod 0700 "$folder"

create() { # create NAME COMMAND... : its output becomes the file, at once or not at all
  local file="$folder/$1"
  shift
  [ -e "$file" ] && return
  "$@" >"$file.new"
  chmod 0444 "$file.new"
  mv "$file.new" "$file"
  echo "secrets: made $file" >&2
}

random_hex() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }

signing_key() {
  .venv/bin/kbs-rim verifier --signing-key "$folder/.signing_key" --generate-key --print-key >/dev/null 2>&1
  cat "$folder/.signing_key"
  rm -f "$folder/.signing_key"
}

create kek head -c 32 /dev/urandom
create postgres_password random_hex
create verifier_signing_key.pem signing_key
create verifier_public_key.json .venv/bin/kbs-rim verifier --signing-key "$folder/verifier_signing_key.pem" --print-key

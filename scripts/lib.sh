# shellcheck shell=bash
# Shared by the bash scripts: strict mode, messages, the cache directory. To be sourced.
set -euo pipefail

# A root shell made by plain `su` has no directories of system programs.
PATH=$PATH:/usr/sbin:/sbin

program=$(basename "$0")

# Progress, for people: on standard error, so that standard output stays machine-readable.
say() {
  printf '%s: %s\n' "$program" "$*" >&2
}

# One line that says what was found, what is needed, what to change. Exit code 1 unless given.
die() {
  say "error: $1"
  exit "${2:-1}"
}

usage_error() {
  say "error: $1"
  exit 64
}

require_root() {
  [[ $EUID -eq 0 ]] || die "Running as user id $EUID, but root is needed: run it with sudo."
}

cache_directory() {
  realpath -m -- "${COLO_CACHE:-/var/cache/colo}"
}

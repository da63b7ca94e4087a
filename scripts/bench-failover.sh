#!/usr/bin/env bash
# How long five nodes are without signatures and without changes when their leader is killed under load, over many rounds.
# A table, and a line of JSON.
#
#   scripts/bench-failover.sh [ROUNDS]   20 unless told
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

report=$(target/release/failover "${1:-20}")
row() { # TITLE FIELD
  local p50 p99 max
  for figure in p50 p99 max; do
    printf -v "$figure" '%s' "$(grep -o "\"$2\":{[^}]*}" <<<"$report" | grep -o "\"${figure}_ms\":[0-9.]*" | cut -d: -f2)"
  done
  # Milliseconds of tenths are noise here.
  # shellcheck disable=SC2154
  printf '%-44s %8.0f %8.0f %8.0f\n' "$1" "$p50" "$p99" "$max"
}
printf '%-44s %8s %8s %8s\n' 'after a SIGKILL of the leader, ms' p50 p99 max
row 'until a signature' first_signature
row 'longest wait of a client for a signature' longest_wait_for_a_signature
row 'until a change is ordered' change
printf '%s\n' "$report"

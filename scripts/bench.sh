#!/usr/bin/env bash
# Figures of this machine: signatures per second and latency of a 2-of-3 key, and key generation 3-of-5, on loopback.
#
#   scripts/bench.sh [SECONDS]   per measurement, 10 unless told
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/cluster.sh
. scripts/cluster.sh
seconds=${1:-10}

start_cluster 5
symbolon key create bench --threshold 2 --roster node1,node2,node3
for clients in 1 16 64; do
  printf '\nsign, 2 of 3, %d clients, %d s\n' "$clients" "$seconds"
  symbolon bench sign --key bench --clients "$clients" --seconds "$seconds" -o json
done
printf '\nkeygen, 3 of 5\n'
symbolon bench keygen -o json

#!/usr/bin/env bash
# Figures of this machine, on loopback: signatures per second and latency of a 2-of-3 key, key generation 3-of-5, the same over
# networks with a round trip of 30 and 100 ms between nodes, and failover.
#
#   scripts/bench.sh [SECONDS]   per measurement, 10 unless told
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-10}

printf '\nfailover, 5 nodes\n'
scripts/bench-failover.sh

# A cluster of its own for each network, in a shell of its own, which cleans up when it ends.
for round_trip_ms in 0 30 100; do
  (
    # shellcheck source=scripts/cluster.sh
    . scripts/cluster.sh
    start_cluster 5 "$round_trip_ms"
    printf '\nround trip between nodes: %d ms\n' "$round_trip_ms"
    symbolon key create bench --threshold 2 --roster node1,node2,node3
    for clients in 1 16 64; do
      printf '\nsign, 2 of 3, %d clients, %d s\n' "$clients" "$seconds"
      symbolon bench sign --key bench --clients "$clients" --seconds "$seconds"
    done
    printf '\nkeygen, 3 of 5\n'
    symbolon bench keygen
    printf '\nrefresh, 16 at a time\n'
    symbolon bench refresh --keys 64 --parallel 16 --seconds "$seconds"
  )
done

# A cluster on loopback for the scripts beside this file: start, wait, kill, clean up. To be sourced.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BIN=$ROOT/target/release
WORK=''    # directory of this run
CLUSTER='' # WORK/cluster
DEV=''     # process id of `symbolond dev`
RESTARTED=() # process ids of nodes that were started again, and of the slow network

symbolond() { "$BIN/symbolond" "$@"; }
symbolon() { "$BIN/symbolon" "$@"; }

fail() {
  printf '\n    FAILED: %s\n' "$*" >&2
  exit 1
}

# wait_for WHAT SECONDS COMMAND... : until the command succeeds, else fails the run.
wait_for() {
  local what=$1 end=$((SECONDS + $2))
  shift 2
  until "$@"; do
    ((SECONDS < end)) || fail "waited too long for: $what"
    sleep 0.1
  done
}

# The first port of a range in which nobody listens: node k takes the ports base+10k and base+10k+1, and base+10k+5 behind a
# slow network.
free_base_port() {
  local nodes=$1 base k port attempt
  for attempt in {1..50}; do
    base=$((20000 + RANDOM % 1000 * 10))
    for ((k = 1; k <= nodes; k++)); do
      for port in $((base + 10 * k)) $((base + 10 * k + 1)) $((base + 10 * k + 5)); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue 3; fi
      done
    done
    printf '%s\n' "$base"
    return 0
  done
  fail "no free ports found after $attempt attempts"
}

alive() { [[ -r /proc/$1/stat ]] && ! grep -q ') Z ' "/proc/$1/stat" 2>/dev/null; }
gone() { ! alive "$1"; }

# start_cluster NODES [MS] : makes everything in a new directory, starts the nodes, waits until all answer. With MS a round trip
# between two nodes takes that long.
start_cluster() {
  local nodes=$1 round_trip_ms=${2:-0}
  WORK=$(mktemp -d "${TMPDIR:-/tmp}/symbolon.XXXXXX")
  CLUSTER=$WORK/cluster
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  # What the client remembers between calls stays in here too.
  export XDG_STATE_HOME=$WORK/state XDG_CONFIG_HOME=$WORK/config XDG_CACHE_HOME=$WORK/cache
  local base
  base=$(free_base_port "$nodes")
  ((round_trip_ms == 0)) || slow_network "$nodes" "$base" "$round_trip_ms"
  "$BIN/symbolond" dev --nodes "$nodes" --dir "$CLUSTER" --base-port "$base" >"$WORK/dev.out" 2>"$WORK/dev.err" </dev/null 3>&- &
  DEV=$!
  wait_for "$nodes nodes to answer" 60 dev_is_ready
  # shellcheck disable=SC1091
  . "$CLUSTER/env"
  export SYMBOLON_GENESIS SYMBOLON_IDENTITY SYMBOLON_ENDPOINTS
  wait_for "all $nodes nodes to be reachable and one to lead" 30 reachable_with_leader "$nodes"
}

# Has every node listen for its peers behind a proxy that carries slowly.
slow_network() {
  local nodes=$1 base=$2 round_trip_ms=$3 k
  local -a pairs=()
  "$BIN/symbolond" dev init --nodes "$nodes" --dir "$CLUSTER" --base-port "$base" >"$WORK/init.out"
  for ((k = 1; k <= nodes; k++)); do
    local advertised=127.0.0.1:$((base + 10 * k)) behind=127.0.0.1:$((base + 10 * k + 5))
    sed -i "s/^peer_bind = \"$advertised\"/peer_bind = \"$behind\"/" "$CLUSTER/node$k/symbolond.toml"
    grep -q "$behind" "$CLUSTER/node$k/symbolond.toml" || fail "node$k does not listen behind the slow network"
    pairs+=(--listen "$advertised" --to "$behind")
  done
  "$BIN/fault-proxy" --delay-ms $((round_trip_ms / 2)) "${pairs[@]}" >"$WORK/proxy.err" 2>&1 </dev/null 3>&- &
  RESTARTED+=($!)
}

dev_is_ready() {
  alive "$DEV" || fail "symbolond dev ended"
  grep -qx ready "$WORK/dev.out"
}

# JSON without its white space, so that it can be searched.
status_json() { timeout 15 "$BIN/symbolon" status -o json 2>/dev/null | tr -d ' \n\t'; }

reachable_with_leader() {
  local status count
  status=$(status_json) || return 1
  count=$(grep -o '"reachable":true' <<<"$status" | wc -l) || true
  ((count >= $1)) && grep -qE '"leader":("[^"]|[1-9])' <<<"$status"
}

# node_pid K : of a node that `dev` started.
node_pid() { cat "$CLUSTER/node$1/pid"; }

kill_node() {
  local pid
  pid=$(node_pid "$1")
  kill -KILL "$pid"
  wait_for "node$1 to be gone" 10 gone "$pid"
}

start_node() {
  "$BIN/symbolond" run --config "$CLUSTER/node$1/symbolond.toml" >>"$CLUSTER/node$1/log" 2>&1 </dev/null 3>&- &
  RESTARTED+=($!)
}

all_gone() {
  local pid
  for pid in "$@"; do gone "$pid" || return 1; done
}

# Runs at every end, good or bad.
clean_up() {
  local status=$? pid log file end
  trap - EXIT
  trap '' INT TERM
  set +e
  if ((status != 0)) && [[ -d $WORK ]]; then
    for log in "$WORK"/dev.err "$CLUSTER"/node*/log; do
      [[ -s $log ]] && printf '\n--- the end of %s\n' "${log#"$WORK"/}" >&2 && tail -n 15 "$log" >&2
    done
  fi
  local -a pids=("${RESTARTED[@]}")
  [[ -n $DEV ]] && pids=("$DEV" "${pids[@]}")
  # Nodes that outlived their parent; the directory tells that a process is one of ours.
  for file in "$CLUSTER"/node*/pid; do
    [[ -r $file ]] && pid=$(<"$file") && grep -qaF "$CLUSTER" "/proc/$pid/cmdline" 2>/dev/null && pids+=("$pid")
  done
  if ((${#pids[@]})); then
    kill -TERM "${pids[@]}" 2>/dev/null
    end=$((SECONDS + 10))
    until all_gone "${pids[@]}" || ((SECONDS >= end)); do sleep 0.1; done
    for pid in "${pids[@]}"; do alive "$pid" && kill -KILL "$pid" 2>/dev/null; done
    wait 2>/dev/null
  fi
  [[ -n $WORK ]] && rm -rf "$WORK"
  exit "$status"
}

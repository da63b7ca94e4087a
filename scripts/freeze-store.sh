#!/usr/bin/env bash
# Makes the store that later builds must be able to open: tests/fixtures/store-v2.tar.gz, and store-v2.json with what it holds.
# Once a release has been made, its store is frozen for good: a new format gets a new fixture beside it.
#
#   scripts/freeze-store.sh           refuses to replace what is there
#   scripts/freeze-store.sh --force   before the release, while the format still changes
set -euo pipefail
# shellcheck source=scripts/cluster.sh
. "$(dirname "${BASH_SOURCE[0]}")/cluster.sh"
cd "$ROOT"

# The addresses of the nodes stand in genesis, so every run of the test needs these ports: 29410 to 29431.
BASE_PORT=29400
FIXTURE=$ROOT/tests/fixtures/store-v2
# What runs the test that opens the fixture; it records what it sees when SYMBOLON_FREEZE is set.
read -ra TEST <<<"${FROZEN_TEST:-cargo test --release --locked --workspace --test frozen}"

[[ ${1:-} == --force || ! -e $FIXTURE.tar.gz ]] || fail "$FIXTURE.tar.gz is there: it is frozen (--force replaces it)"
for program in symbolond symbolon; do
  [[ -x $BIN/$program ]] || fail "$BIN/$program is not there: run make build"
done

WORK=$(mktemp -d "${TMPDIR:-/tmp}/symbolon.XXXXXX")
CLUSTER=$WORK/cluster
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
export XDG_STATE_HOME=$WORK/state XDG_CONFIG_HOME=$WORK/config XDG_CACHE_HOME=$WORK/cache

# Checkpoints every 16 entries, so that the store has some, and a log whose beginning was dropped.
start() {
  "$BIN/symbolond" dev --nodes 3 --dir "$CLUSTER" --base-port "$BASE_PORT" --checkpoint-entries 16 \
    >"$WORK/dev.out" 2>"$WORK/dev.err" </dev/null &
  DEV=$!
  wait_for "three nodes to answer" 60 dev_is_ready
  # shellcheck disable=SC1091
  . "$CLUSTER/env"
  export SYMBOLON_GENESIS SYMBOLON_IDENTITY SYMBOLON_ENDPOINTS
  wait_for "all nodes to be reachable and one to lead" 30 reachable_with_leader 3
}
stop() {
  kill -TERM "$DEV"
  wait "$DEV" || fail "the nodes did not stop cleanly"
  DEV=''
}
# state KEY STATE : whether the first version is in it.
state() { symbolon key show "$1" -o json | tr -d ' \n' | grep -q "\"version\":1,\"state\":\"$2\""; }
client() {
  symbolon identity new --file "$CLUSTER/admin/$1" >"$WORK/key"
  symbolon client add "$1" --public-key "$(<"$WORK/key")" --role "$2" --key '*'
}

start
client signer signer
symbolon key create active --tag use=test --tag made=frozen
symbolon key create rotated --threshold 3
printf 'signed by the first version\n' >"$CLUSTER/admin/message"
symbolon sign rotated "$CLUSTER/admin/message" --out "$CLUSTER/admin/message.sig"
symbolon key rotate rotated
symbolon key create destroyed
symbolon key revoke destroyed --reason 'about to be destroyed'
symbolon key destroy destroyed --confirm destroyed
wait_for "the shares to be erased" 30 state destroyed destroyed
symbolon key create expired --expires 5s
symbolon key create suspended --roster node2,node3
symbolon key create revoked
# A node that hangs right after it was well: the generation begins and fails.
hanging=$(node_pid 3)
kill -STOP "$hanging"
if symbolon key create failed --roster node1,node2,node3; then fail "a key was made without one of its holders"; fi
kill -CONT "$hanging"
wait_for "all nodes to be reachable again" 30 reachable_with_leader 3
wait_for "the generation to have failed" 30 state failed failed

# After a start the store has files beside its log, and the log has two terms.
stop
start
for message in one two three; do symbolon --identity "$CLUSTER/admin/signer" sign active - <<<"$message" >"$WORK/signature"; done
wait_for "the key to expire" 30 state expired expired
# The third node misses the last entries: whoever opens the store has to apply them there.
third=$(node_pid 3)
kill -TERM "$third"
wait_for "node3 to be gone" 20 gone "$third"
client auditor auditor
symbolon key suspend suspended
symbolon key revoke revoked --reason 'the laptop was stolen'
stop

mkdir -p "${FIXTURE%/*}"
rm -f "$CLUSTER"/node*/{log,pid} "$CLUSTER"/node*/store/LOG* "$CLUSTER"/node*/store/LOCK "$CLUSTER"/admin/*.pub "$CLUSTER/env"
tar --create --directory "$CLUSTER" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 . | gzip -9n >"$FIXTURE.tar.gz"
ls -l "$FIXTURE.tar.gz"

SYMBOLON_FREEZE=1 "${TEST[@]}"
"${TEST[@]}"

#!/usr/bin/env bash
# The main job of Symbolon on real input: five nodes make a key that exists nowhere, and sign real files with it, also when nodes
# die. Exits non-zero when any step does not hold, and always cleans up.
#
#   scripts/demo.sh          runs it; the programs must be built
#   scripts/demo.sh --plan   says what `make demo` will do
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ${1:-} == --plan ]]; then
  built=$(find "${CARGO_HOME:-$HOME/.cargo}/symbolon-build" -name librocksdb.a -print -quit 2>/dev/null || true)
  printf 'This will\n'
  scripts/setup.sh --plan | sed 's/^/  - /'
  if [[ -n $built ]]; then
    printf '  - build what has changed, into target/release\n'
  else
    printf '  - build everything: about a quarter of an hour on two cores, this once, mostly for RocksDB\n'
  fi
  printf '  - start five nodes on this machine, make a 3-of-5 key named "release", sign Cargo.lock and the symbolon program with it,\n'
  printf '    check the signatures with OpenSSL and OpenSSH, kill nodes and sign again, and clean up\n\n'
  exit 0
fi

# shellcheck source=scripts/cluster.sh
. scripts/cluster.sh
for program in symbolond symbolon; do
  [[ -x $BIN/$program ]] || fail "$BIN/$program is not there: run make demo"
done

started=$SECONDS
number=0
step() {
  number=$((number + 1))
  printf '\n%2d. %s\n' "$number" "$*"
}
ok() { printf '    ok: %s\n' "$*"; }
# Shows a command as a person would type it, whatever its output is redirected to, and runs it.
exec 3>&1
show() {
  printf '    $ %s\n' "${*//$WORK\//}" >&3
  "$@"
}
indent() { sed 's/^/    /'; }

step "Five nodes start, each with its own directory, identity, sealed store and ports"
printf '    $ symbolond dev --nodes 5 --dir cluster\n'
start_cluster 5
for k in 1 2 3 4 5; do printf '    node%d  process %-8s %s\n' "$k" "$(node_pid "$k")" "cluster/node$k"; done
show symbolon status | indent
ok "all five answer"

step "A 3-of-5 key named release is made by distributed key generation: no machine ever holds it"
show symbolon key create release --threshold 3
show symbolon key export-public release --format pem >"$WORK/release.pem"
indent <"$WORK/release.pem"
show symbolon key export-public release --format ssh >"$WORK/release.pub"
ok "the public key is exported"

# sign_lock NAME : Cargo.lock as a raw Ed25519 signature, checked by OpenSSL.
sign_lock() {
  show symbolon sign release Cargo.lock --format raw --out "$WORK/$1"
  [[ $(wc -c <"$WORK/$1") -eq 64 ]] || fail "$1 is no raw Ed25519 signature"
  show openssl pkeyutl -verify -pubin -inkey "$WORK/release.pem" -rawin -in Cargo.lock -sigfile "$WORK/$1" | indent ||
    fail "OpenSSL does not accept $1"
}

step "Cargo.lock is signed: an ordinary Ed25519 signature, which OpenSSL verifies"
sign_lock Cargo.lock.sig
{ cat Cargo.lock && printf 'x'; } >"$WORK/changed"
if openssl pkeyutl -verify -pubin -inkey "$WORK/release.pem" -rawin -in "$WORK/changed" -sigfile "$WORK/Cargo.lock.sig" >/dev/null 2>&1; then
  fail "OpenSSL accepts the signature for another file"
fi
ok "OpenSSL accepts the signature, and refuses it for a changed file"

step "The symbolon program is signed in the format of OpenSSH, which ssh-keygen verifies"
printf 'release %s\n' "$(<"$WORK/release.pub")" >"$WORK/allowed_signers"
show symbolon sign release target/release/symbolon --format sshsig --namespace file --out "$WORK/symbolon.sig"
show ssh-keygen -Y verify -f "$WORK/allowed_signers" -I release -n file -s "$WORK/symbolon.sig" <target/release/symbolon | indent ||
  fail "ssh-keygen does not accept the signature"
ok "OpenSSH accepts the signature"

step "Two nodes are killed (SIGKILL), and three of five still sign"
kill_node 4
kill_node 5
sign_lock Cargo.lock.sig2
ok "signed without node4 and node5"

step "A third is killed: two are fewer than three, and the answer says so within 5 seconds"
kill_node 3
printf '    $ symbolon sign release Cargo.lock -o json\n'
begin=${EPOCHREALTIME/[.,]/}
status=0
timeout 30 "$BIN/symbolon" sign release Cargo.lock -o json >"$WORK/refused.out" 2>"$WORK/refused.err" </dev/null || status=$?
took_ms=$(((${EPOCHREALTIME/[.,]/} - begin) / 1000))
indent <"$WORK/refused.err"
error=$(tr -d ' \n\t' <"$WORK/refused.err")
((status == 4)) || fail "the exit code is $status, not 4 (unavailable)"
[[ ! -s $WORK/refused.out ]] || fail "something was printed as a signature"
[[ $error == *'"code":"below_threshold"'* ]] || fail "the error is not below_threshold"
[[ $error =~ \"reachable\":2[,}] ]] || fail "the error does not say that 2 signers are reachable"
[[ $error =~ \"needed\":3[,}] ]] || fail "the error does not say that 3 signers are needed"
((took_ms < 5000)) || fail "it took $took_ms ms"
ok "exit code 4 after $took_ms ms: 2 signers reachable, 3 needed"

step "The three nodes come back, and the cluster signs again"
for k in 3 4 5; do
  printf '    $ symbolond run --config cluster/node%d/symbolond.toml &\n' "$k"
  start_node "$k"
done
wait_for "all five nodes to be reachable again" 60 reachable_with_leader 5
sign_lock Cargo.lock.sig3
show symbolon status | indent
ok "signed again, with all five back"

printf '\nEverything held, in %d seconds.\n' "$((SECONDS - started))"

#!/usr/bin/env bash
# Every test of the workspace: unit tests, level A simulation, end-to-end over real processes, docker-compose, examples in the
# documentation. Prints seconds per part and ends with the summary of the test runner.
#
#   scripts/test.sh [ARGUMENTS OF cargo test]
#
# SYMBOLON_REQUIRE=docker turns the skip of the docker test into a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset RUSTFLAGS RUSTDOCFLAGS CARGO_TARGET_DIR CARGO_BUILD_BUILD_DIR

scripts/setup.sh
begin=$SECONDS
# The tests, and with them the programs that the end-to-end tests start; with progress shown.
cargo test --release --locked --workspace --no-run "$@"
build_seconds=$((SECONDS - begin))

log=$(mktemp "${TMPDIR:-/tmp}/symbolon-test.XXXXXX")
trap 'rm -f "$log"' EXIT
status=0
cargo test --release --locked --workspace --no-fail-fast "$@" 2>&1 </dev/null | tee "$log" || status=$?

# Names of the test files of a crate, as an alternation.
files_of() { find "$1" -maxdepth 1 -name '*.rs' -printf '%f\n' 2>/dev/null | sed 's/\.rs$//' | paste -s -d '|' -; }

# What the runner said, by part. The file behind "Running" tells the crate, "Doc-tests" the examples.
awk -v build="$build_seconds" -v simulation="$(files_of sim/tests)" -v end_to_end="$(files_of tests/tests)" '
  function is(names) { return names != "" && $0 ~ "Running tests/(" names ")[.]rs " }
  /^ *Running / {
    part = "unit"
    if (is(simulation) || $0 ~ /\/sim-[0-9a-f]+\)/) part = "simulation"
    else if (is("docker")) part = "docker"
    else if (is(end_to_end)) part = "end-to-end"
    target = $0; sub(/^ *Running /, "", target)
  }
  /^ *Doc-tests / { part = "examples"; target = $0; sub(/^ */, "", target) }
  /^SKIPPED/ { skipped[++skips] = $0 }
  /^test result: / {
    for (i = 1; i <= NF; i++) {
      if ($(i + 1) ~ /^passed/) passed += $i
      if ($(i + 1) ~ /^failed/) { failed += $i; if ($i > 0) broken[++breaks] = target }
      if ($(i + 1) ~ /^ignored/) ignored += $i
      if ($(i + 1) ~ /^measured/) measured += $i
      if ($(i + 1) ~ /^filtered/) filtered += $i
      if ($i == "in") { seconds = $(i + 1); sub(/s.*/, "", seconds); spent[part] += seconds; total += seconds }
    }
    count[part]++
  }
  END {
    print "\nseconds per part"
    printf "  %-12s %8.1f\n", "build", build
    order = "unit simulation end-to-end docker examples"
    n = split(order, parts, " ")
    for (i = 1; i <= n; i++) if (parts[i] in count) printf "  %-12s %8.1f\n", parts[i], spent[parts[i]]
    print ""
    for (i = 1; i <= skips; i++) print skipped[i]
    for (i = 1; i <= breaks; i++) print "failed in: " broken[i]
    printf "test result: %s. %d passed; %d failed; %d ignored; %d measured; %d filtered out; finished in %.2fs\n", \
      (failed > 0 ? "FAILED" : "ok"), passed, failed, ignored, measured, filtered, total
  }' "$log"
exit "$status"

#!/usr/bin/env bash
# Makes the directory from which Dockerfile.prebuilt builds: the programs, and exactly the libraries that they are linked to.
#
#   scripts/image-context.sh DIRECTORY
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
context=${1:?usage: scripts/image-context.sh DIRECTORY}
programs=(target/release/symbolond target/release/symbolon)

for program in "${programs[@]}"; do
  [[ -x $program ]] || { printf '%s is not there: run make build\n' "$program" >&2; exit 1; }
done
rm -rf "$context/root" "$context/data"
install -d "$context/root/usr/local/bin" "$context/root/etc" "$context"/data/{admin,node1,node2,node3,node4,node5}
install -m 755 "${programs[@]}" "$context/root/usr/local/bin"
cp Dockerfile.prebuilt "$context"

# Both forms of a line of ldd: `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)` and `/lib64/ld-linux-x86-64.so.2 (0x...)`.
ldd "${programs[@]}" | sed -n 's/^\t.* => \(\/[^ ]*\) (0x.*/\1/p; s/^\t\(\/[^ ]*\) (0x.*/\1/p' | sort -u | while IFS= read -r library; do
  install -D -m 755 "$(readlink -f "$library")" "$context/root$library"
done

printf 'symbolon:x:10001:10001::/data:/sbin/nologin\n' >"$context/root/etc/passwd"
printf 'symbolon:x:10001:\n' >"$context/root/etc/group"
printf 'hosts: files dns\n' >"$context/root/etc/nsswitch.conf"

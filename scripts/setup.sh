#!/usr/bin/env bash
# Finds what is missing to build, demonstrate and test Symbolon. As root on a Debian-like system it installs that; otherwise
# it says exactly what to install and exits 1. Says nothing and changes nothing when all is there.
#
#   scripts/setup.sh          find, install
#   scripts/setup.sh --plan   only say what would be installed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
shopt -s nullglob

RUST_NEEDED=1.95
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

have() { command -v "$1" >/dev/null 2>&1; }

# RocksDB's bindings are made by bindgen, which opens libclang at run time: it looks in LIBCLANG_PATH alone if that is set, else
# where llvm-config points, in LD_LIBRARY_PATH and LIBRARY_PATH, and in the usual directories below. `libclang-cpp` is another library.
libclang() {
  local directory file
  local -a directories=()
  if [[ -n ${LIBCLANG_PATH:-} ]]; then
    [[ -f $LIBCLANG_PATH ]] && directories=("${LIBCLANG_PATH%/*}") || directories=("$LIBCLANG_PATH")
  else
    local prefix=''
    have "${LLVM_CONFIG_PATH:-llvm-config}" && prefix=$("${LLVM_CONFIG_PATH:-llvm-config}" --prefix)
    [[ -n $prefix ]] && directories+=("$prefix"/lib "$prefix"/lib64)
    local -a listed=()
    IFS=: read -ra listed <<<"${LD_LIBRARY_PATH:-}:${LIBRARY_PATH:-}"
    directories+=("${listed[@]}" /usr/lib/llvm-*/lib /usr/local/llvm*/lib* /usr/local/lib*/*/* /usr/local/lib*/* /usr/local/lib*
      /usr/lib*/*-linux-gnu* /usr/lib*/* /usr/lib*)
  fi
  for directory in "${directories[@]}"; do
    [[ -n $directory ]] || continue
    for file in "$directory"/libclang.so "$directory"/libclang-*.so "$directory"/libclang.so.* "$directory"/libclang-*.so.*; do
      [[ $file == *-cpp.* || ! -e $file ]] || { printf '%s\n' "$file"; return 0; }
    done
  done
  return 1
}

# The compiler's own headers (stddef.h and the like) come in a package of their own, found from where libclang lies.
libclang_headers() {
  local library=$1 directory header
  directory=$(dirname "$(readlink -f "$library")")
  for header in "${library%/*}"/clang/*/include/stddef.h "$directory"/clang/*/include/stddef.h \
    "${directory%/*}"/lib/clang/*/include/stddef.h /usr/lib/clang/*/include/stddef.h /usr/lib/llvm-*/lib/clang/*/include/stddef.h; do
    return 0
  done
  have clang
}

# RocksDB is C++20.
compiles_cxx20() {
  have "${CXX:-c++}" || return 1
  printf '#include <compare>\n#include <cstddef>\nauto order = 1 <=> 2;\n' | "${CXX:-c++}" -std=c++20 -x c++ -fsyntax-only - 2>/dev/null
}

# `docker info` tells whether an engine is there; the test of the compose file needs one of the two compose commands too.
compose_missing() {
  [[ ${SYMBOLON_REQUIRE:-} == *docker* ]] && have docker && ! have docker-compose && ! docker compose version >/dev/null 2>&1
}

missing=() packages=()
lacks() { missing+=("$1"); shift; packages+=("$@"); }

# Debian 12 has LLVM 14 by default; elsewhere the newest that the package lists know.
llvm_version() {
  local version=14
  if ! apt-cache show "libclang1-$version" >/dev/null 2>&1; then
    version=$(apt-cache pkgnames libclang1- 2>/dev/null | sed -n 's/^libclang1-\([0-9]\+\)$/\1/p' | sort -n | tail -n 1)
  fi
  printf '%s\n' "${version:-14}"
}

if library=$(libclang); then
  libclang_headers "$library" || lacks "the headers of libclang" 'libclang-common-@-dev'
else
  lacks "libclang and its headers" 'libclang1-@' 'libclang-common-@-dev'
fi
compiles_cxx20 || lacks "a C++20 compiler" g++ libc6-dev
have cc || lacks "a C compiler" gcc
have make || lacks make make
have git || lacks git git
have openssl || lacks openssl openssl
have ssh-keygen || lacks ssh-keygen openssh-client
compose_missing && lacks docker-compose docker-compose

rust_problem=''
if ! have cargo || ! have rustc; then
  rust_problem="there is no Rust toolchain"
else
  rust=$(rustc --version | sed 's/^rustc \([0-9.]*\).*/\1/')
  oldest=$(printf '%s\n%s\n' "$RUST_NEEDED" "$rust" | sort -V | head -n 1)
  [[ $oldest == "$RUST_NEEDED" ]] || rust_problem="rustc $rust is too old"
fi
rust_advice="$rust_problem: Symbolon needs Rust $RUST_NEEDED or newer. Install it as https://rustup.rs describes, or run: rustup update stable"

with_llvm() {
  local -a named=()
  local package version=''
  for package in "${packages[@]}"; do
    if [[ $package == *@* ]]; then
      [[ -n $version ]] || version=$(llvm_version)
      package=${package//@/$version}
    fi
    named+=("$package")
  done
  printf '%s\n' "${named[*]}"
}

if [[ ${1:-} == --plan ]]; then
  if ((${#packages[@]})); then
    if ((EUID == 0)) && have apt-get; then
      printf 'install with apt-get: %s\n' "$(with_llvm)"
    else
      printf 'stop, because something is missing that only root can install: %s\n' "$(with_llvm)"
    fi
  else
    printf 'install nothing: all that is needed is here\n'
  fi
  [[ -z $rust_problem ]] || printf 'stop, because %s\n' "$rust_advice"
  exit 0
fi

if ((${#packages[@]})); then
  printf 'missing: %s\n' "$(IFS=,; printf '%s' "${missing[*]}" | sed 's/,/, /g')" >&2
  if ((EUID == 0)) && have apt-get; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null >&2
    read -ra install <<<"$(with_llvm)"
    printf 'installing with apt-get: %s\n' "${install[*]}" >&2
    apt-get install -y -qq --no-install-recommends "${install[@]}" </dev/null >&2
    library=$(libclang) && libclang_headers "$library" || { printf 'libclang is still not found after the installation\n' >&2; exit 1; }
    compiles_cxx20 || { printf 'there is still no compiler for C++20 after the installation (set CXX to one)\n' >&2; exit 1; }
  else
    printf 'install these packages (names as in Debian 12), then run the same command again:\n\n    apt-get install %s\n\n' "$(with_llvm)" >&2
    exit 1
  fi
fi
if [[ -n $rust_problem ]]; then
  printf '%s\n' "$rust_advice" >&2
  exit 1
fi

# All checkouts share one build directory (.cargo/config.toml), and cargo tells their crates apart by time alone, by neither path
# nor content: it would take what another checkout built last for its own. So when the last build was another checkout's, every
# crate of the workspace is built anew. RocksDB and the other dependencies stay.
build=$(sed -n 's/^build-dir *= *"{cargo-cache-home}\/\(.*\)"/\1/p' .cargo/config.toml)
if [[ -n $build ]]; then
  stamp=${CARGO_HOME:-$HOME/.cargo}/$build/last-checkout
  if [[ ! -e $stamp || $(<"$stamp") != "$PWD" ]]; then
    mkdir -p "${stamp%/*}"
    find protocol rpc node client sim tests -type f \( -name '*.rs' -o -name '*.proto' \) -exec touch -c {} +
    printf '%s\n' "$PWD" >"$stamp"
  fi
fi

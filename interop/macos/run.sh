#!/usr/bin/env bash
# Checks for macOS, from a Linux on x86-64, what of the program is Rust alone: its types against the real standard library,
# its numbers and names against those of Apple's headers, and what a linked program asks of macOS. `./x darwin` calls it with
# the folder for what it fetches, the pinned Rust, and the pinned linker with its hash.
# Exit status: 0 when all of it holds, 75 when something could not be had here, anything else when something does not.
set -euo pipefail
cd "$(dirname "$0")"
at=$1/darwin-$2 rust=$2 zig=$3
target=aarch64-apple-darwin

# Crates that reach no C: what the others do on macOS is seen on a Mac.
crates=(attest batch content dialect enclave harden keys ledger registry seal session types wire)

say() { printf '%s\n' "$*" >&2; }
cannot() { say "SKIPPED: $*"; exit 75; }

# Sources of the standard library, as Debian has them for the pinned release, found with a configuration of apt's own.
sources() {
  local apt=$at/apt mirror version options
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/none" && : >"$apt/status" || return 1
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Component: main' | grep -m1 '/debian/*$') || return 1
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie-backports main" >"$apt/sources.list"
  options=(-o "Dir::State=$apt" -o "Dir::State::lists=$apt/lists" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
    -o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=$apt/none" -o "Dir::Etc::preferencesparts=$apt/none"
    -o "APT::Sandbox::User=$(id -un)" -o APT::Update::Post-Invoke::= -qq)
  apt-get "${options[@]}" update >&2 || return 1
  version=$(apt-cache "${options[@]}" madison rust-src | awk -v "release=$rust+" 'index($3, release) == 1 {print $3; exit}') || return 1
  [ -n "$version" ] || { say "Debian has no rust-src of $rust any more"; return 1; }
  (cd "$apt" && apt-get "${options[@]}" download "rust-src=$version") >&2 || return 1
  rm -rf "$at/package" "$at/sysroot"
  dpkg-deb -x "$apt"/rust-src_*.deb "$at/package" || return 1
  # A sysroot of its own: the toolchain's stays as it is.
  local own=$at/sysroot/lib/rustlib
  mkdir -p "$own/src/rust" || return 1
  mv "$at/package/usr/src/rustc-$rust/library" "$own/src/rust/library" || return 1
  rm -rf "$at/package" "$apt"
  touch "$at/sysroot/complete"
}

linker() {
  rm -rf "$at/zig"
  python3 -m venv "$at/zig" >&2 || return 1
  echo "ziglang==$zig" >"$at/zig/linker.txt" || return 1
  # It is run, so it is what was looked at once.
  "$at/zig/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$at/zig/linker.txt" >&2 || return 1
  touch "$at/zig/complete-${zig%% *}"
}

[ "$(uname -sm)" = "Linux x86_64" ] || cannot "it is made for Linux on x86-64; on a Mac cargo itself does all of this"
[ -e "$at/sysroot/complete" ] || {
  { command -v apt-get && command -v dpkg-deb; } >/dev/null || cannot "the standard library's sources come from Debian, by apt"
  say "fetching the sources of Rust $rust"
  sources || cannot "the sources of Rust $rust cannot be had from Debian here"
}

# The compiler with that sysroot; its own parts are reached through links, for whichever place the toolchain has now.
toolchain=$(rustc --print sysroot)
for part in "$toolchain"/lib/rustlib/x86_64-*; do ln -sfn "$part" "$at/sysroot/lib/rustlib/"; done
printf '#!/bin/sh\nexec %q --sysroot %q "$@"\n' "$toolchain/bin/rustc" "$at/sysroot" >"$at/rustc.new"
chmod +x "$at/rustc.new"
# Cargo compiles everything again for a compiler that is newer than what it made.
cmp -s "$at/rustc.new" "$at/rustc" || mv "$at/rustc.new" "$at/rustc"
# One place a clone, since cargo goes by the times of files.
export CARGO_TARGET_DIR=$at/target-$(pwd | cksum | cut -d ' ' -f 1)
# Nobody debugs it.
export CARGO_PROFILE_DEV_DEBUG=0
export RUSTC=$at/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_AARCH64_APPLE_DARWIN_LINKER=$at/linker
build=(-Zbuild-std=std,panic_abort --target "$target")

say "types and lints"
# Clippy finds the sysroot by itself.
export SYSROOT=$at/sysroot
(cd ../.. && cargo clippy --quiet --locked "${build[@]}" "${crates[@]/#/-pdarkbloom-}" -- -D warnings)
say "numbers and names"
lock=$at/lock-$(cksum <../../Cargo.lock | cut -d ' ' -f 1)
if [ -e "$lock" ]; then
  cp "$lock" Cargo.lock
else
  cp ../../Cargo.lock Cargo.lock
  # A manifest that is wrong is our own fault, and no reason to skip anything.
  cargo metadata --quiet --offline --no-deps --format-version 1 >/dev/null
  cargo fetch --quiet || cannot "types hold; the numbers of Apple's headers cannot be had here"
  cp Cargo.lock "$lock"
fi
cargo clippy --quiet "${build[@]}" --bins -- -D warnings
unset SYSROOT

[ -e "$at/zig/complete-${zig%% *}" ] || {
  say "fetching the linker"
  linker || cannot "types and numbers hold; the linker cannot be had here, so symbols were not looked at"
}
say "symbols"
# Each framework exports what its list names and nothing else.
for framework in Security CoreFoundation; do
  mkdir -p "$at/stubs/$framework.framework"
  {
    printf -- '--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-macos ]\n'
    printf "install-name: '/System/Library/Frameworks/%s.framework/Versions/A/%s'\n" "$framework" "$framework"
    printf 'exports:\n  - targets: [ arm64-macos ]\n    symbols: [ %s ]\n...\n' "$(sed 's/^/_/' "frameworks/$framework" | paste -sd ,)"
  } >"$at/stubs/$framework.framework/$framework.tbd"
done
cat >"$at/linker" <<SH
#!/usr/bin/env bash
arguments=()
for argument in "\$@"; do
  case \$argument in
    -liconv | -Wl,-dead_strip | -mmacosx-version-min=* | -arch | -isysroot | "\$SDKROOT") ;;
    arm64) arguments+=(-target aarch64-macos.12.0) ;;
    *) arguments+=("\$argument") ;;
  esac
done
exec $(printf %q "$at/zig/bin/python3") -m ziglang cc -F$(printf %q "$at/stubs") "\${arguments[@]}"
SH
chmod +x "$at/linker"
export ZIG_GLOBAL_CACHE_DIR=$at/zig-cache ZIG_LOCAL_CACHE_DIR=$at/zig-cache
# There is no SDK; one that is named is not looked for.
SDKROOT=$at/stubs cargo build --quiet "${build[@]}" --bin link
imports=$(python3 imports.py "$CARGO_TARGET_DIR/$target/debug/link")
for framework in Security CoreFoundation; do
  found=$(awk -v "from=$framework" '$1 == from {print $2}' <<<"$imports" | LC_ALL=C sort)
  diff -u --label "frameworks/$framework" --label 'what the program takes' "frameworks/$framework" <(echo "$found") || {
    say "the program does not take from $framework what the list names"
    exit 1
  }
done
others=$(awk '{print $1}' <<<"$imports" | sort -u | grep -vxE 'Security|CoreFoundation|libSystem.B.dylib' || true)
[ -z "$others" ] || { say "the program takes something from $others too"; exit 1; }
say "the program takes from macOS $(wc -l <frameworks/Security) names of Security and $(wc -l <frameworks/CoreFoundation) of CoreFoundation, all of them listed"

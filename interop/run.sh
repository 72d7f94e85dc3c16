#!/usr/bin/env bash
# Installs the JavaScript side and checks sealing against it, both ways.
# Exit status: 0 when both implementations agree, 1 when they do not, 2 when nothing ran.
set -euo pipefail
cd "$(dirname "$0")"
command -v node >/dev/null || { echo "node 20 or newer is needed" >&2; exit 75; }
npm ci --silent || { echo "npm could not install what package-lock.json names" >&2; exit 75; }
exec cargo run --quiet --release -p darkbloom-seal --example interop

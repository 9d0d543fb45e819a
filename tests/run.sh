#!/usr/bin/env bash
# Installs what the tests need, on a Debian machine with a Rust toolchain, and runs them all.
# Arguments go to cargo-nextest: tests/run.sh jwt   runs the tests whose name holds `jwt`.
set -euo pipefail
cd "$(dirname "$0")/.."

# gcc: aws-lc and mimalloc; the others are real servers and tools that tests talk to. A tool that is there is not asked for again.
# npm brings an OpenID provider, and Chromium logs in at it.
declare -A packages=([cc]=gcc [python3]=python3 [curl]=curl [nginx]=nginx [openssl]=openssl
    [node]=nodejs [npm]=npm [/usr/sbin/slapd]=slapd [chromium]=chromium [chromedriver]=chromium-driver)
missing=()
for tool in "${!packages[@]}"; do
    command -v "$tool" >/dev/null || missing+=("${packages[$tool]}")
done
# Debian's Python comes without venv; the sidecar example needs it.
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
if ((${#missing[@]})); then
    sudo=""
    ((EUID == 0)) || sudo=sudo
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
[[ -d examples/oidc/node_modules/oidc-provider ]] || npm ci --prefix examples/oidc --no-audit --no-fund --no-update-notifier --silent
command -v cargo-nextest >/dev/null || cargo install --locked --quiet cargo-nextest

profile=default
[[ -n "${CI:-}" ]] && profile=ci
cargo nextest run --locked --profile "$profile" "$@"
# nextest does not run documentation tests.
(($#)) || cargo test --locked --doc --quiet

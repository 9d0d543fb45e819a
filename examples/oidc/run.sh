#!/bin/sh
# Installs the OpenID provider beside this script, if it is not there, and starts it with the shop.
# Usage: run.sh [ADDRESS:PORT]
set -eu
cd "$(dirname "$0")"

[ -d node_modules/oidc-provider ] || npm ci --no-audit --no-fund --no-update-notifier --silent
exec node provider.mjs "$@"

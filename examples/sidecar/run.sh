#!/bin/sh
# Installs Datasette into a virtual environment beside this script, makes shop.db, and serves it on loopback.
# Usage: run.sh [ADDRESS:PORT]
set -eu
cd "$(dirname "$0")"
address=${1:-127.0.0.1:8001}
venv=${VENV:-.venv}

if [ ! -x "$venv/bin/datasette" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'datasette==0.65.*'
fi
if [ ! -f shop.db ]; then
    rm -f shop.db.new
    "$venv/bin/python" -c 'import sqlite3; sqlite3.connect("shop.db.new").executescript(open("shop.sql").read())'
    mv shop.db.new shop.db
fi
exec "$venv/bin/datasette" serve --immutable shop.db --host "${address%:*}" --port "${address##*:}"

#!/bin/sh
# Find a Python 3.11 or newer and let it create or repair .venv (scripts/install.py, which takes the arguments).
# PYTHON=/path/to/python chooses one; otherwise the one .venv was made with stays, or the first found is taken.
set -u
cd "$(dirname "$0")/.." || exit 1

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

candidates=${PYTHON:-.venv/bin/python python3 python3.14 python3.13 python3.12 python3.11}
for candidate in $candidates; do
    if new_enough "$candidate"; then
        exec "$candidate" scripts/install.py "$@"
    fi
done
asked=${PYTHON:-python3}
found=$("$asked" --version 2>/dev/null) || found="$asked, which does not run"
echo "install: Python 3.11 or newer is needed, found $found; install one or name it with make PYTHON=/path/to/python" >&2
exit 2

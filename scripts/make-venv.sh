#!/bin/sh
# Make the virtual environment: make-venv.sh PYTHON DIRECTORY
#
# Needs Python 3.11 or newer and nothing else. Where the system's Python comes without ensurepip (Debian and Ubuntu split
# it off), the package that has it is installed when we are root, and named when we are not.
set -eu
python=$1
venv=$2

for candidate in "$python" python3 python3.13 python3.12 python3.11 python3.14; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        found=$candidate
        break
    fi
done
if [ -z "${found:-}" ]; then
    echo "workerproxy needs Python 3.11 or newer; '$python' is $("$python" -V 2>&1 || true)." >&2
    echo "Install one, or name it: make PYTHON=/path/to/python3 ..." >&2
    exit 1
fi

if ! "$found" -c 'import ensurepip, venv' 2>/dev/null; then
    package="python$("$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$package"
    else
        echo "This Python cannot make virtual environments. On Debian or Ubuntu: sudo apt-get install $package" >&2
        exit 1
    fi
fi
"$found" -m venv "$venv"

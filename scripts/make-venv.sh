#!/bin/sh
# Make the virtual environment: make-venv.sh PYTHON DIRECTORY
#
# Needs Python 3.11 or newer and nothing else. With "auto" for PYTHON it is the fastest one on this machine: builds of the
# same version differ by a factor of two (profile-guided or not, shared library or not), and so does what a request costs
# (docs/notes). Where the system's Python comes without ensurepip (Debian and Ubuntu split
# it off), the package that has it is installed when we are root, and named when we are not.
set -eu
python=$1
venv=$2

# Prints hundredths of a millisecond for a bit of work like the proxy's: calls, attributes, dictionaries. The best of five.
speed='
import sys, time
if sys.version_info < (3, 11): sys.exit(1)
class A:
    __slots__ = ("n", "d")
    def f(self, k):
        d = self.d
        d[k] = d.get(k, 0) + 1
        self.n += 1
        return self.g(k)
    def g(self, k): return k
a = A(); a.n = 0; a.d = {}
best = 9.0
for _ in range(5):
    t = time.process_time()
    for k in range(40000): a.f(k & 63)
    best = min(best, time.process_time() - t)
print(int(best * 100000))
'

if [ "$python" != auto ]; then
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        found=$python
    fi
else
    least=
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 /usr/local/bin/python3 /usr/bin/python3; do
        took=$("$candidate" -c "$speed" 2>/dev/null) || continue
        if [ -z "$least" ] || [ "$took" -lt "$least" ]; then
            least=$took
            found=$candidate
        fi
    done
fi
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

#!/bin/sh
# Install what tests and load tests use from outside PyPI: nginx (origin and peer), haproxy (peer), wrk (load), strace
# (order of the five steps, seen from outside), taskset (pinning), systemd (its units are checked, and run under a second
# one in namespaces of its own; installing it starts nothing).
#
# As root with apt-get: installs what is missing. Otherwise says what is missing and fails.
set -eu

missing=
for pair in nginx:nginx-light haproxy:haproxy wrk:wrk strace:strace taskset:util-linux systemd-analyze:systemd; do
    program=${pair%%:*}
    PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing$missing"
    # Install only: nothing of these is to run as a service.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $missing >/dev/null 2>&1 || {
        apt-get update -q >/dev/null
        DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $missing >/dev/null
    }
    exit 0
fi

echo "missing:$missing" >&2
echo "On Debian or Ubuntu: sudo apt-get install$missing" >&2
exit 1

"""Play one Locust scenario against the demo origin through the proxy: ``python -m loadtests.run steady --duration 9s``.

Starts origin and proxy on free ports, plays, prints Locust's tables with every failure and its reason, stops all.
Exit status 0: every request was answered as it must be and no process of the proxy died; 1: otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtests.idle import raise_descriptor_limit
from loadtests.measure import cpu_seconds, exit_on_sigterm
from loadtests.peers import ROOT
from loadtests.stand import Stand, demo_stand
from tests.support.processes import NotReadyError

MAX_DURATION_S: Final = 3600
_GRACE_S: Final = 60  # for Locust to start, and for running requests to end


@dataclass(frozen=True, slots=True)
class LocustScenario:
    """How many users, how many of them start per second; ``shaped``: the file itself says so over the duration."""

    users: int
    spawn_per_s: int
    shaped: bool = False


SCENARIOS: Final = {
    "steady": LocustScenario(40, 40),
    "spike": LocustScenario(10, 10, shaped=True),
    "large": LocustScenario(8, 8),
    "slow": LocustScenario(100, 50),
    "churn": LocustScenario(40, 40),
    "operations": LocustScenario(40, 40),  # the calm before ``loadtests.operations``
}


def parse_duration(text: str) -> int:
    """``20``, ``20s``, ``5m`` or ``1h`` in seconds, 1 s to 1 h. Raises argparse.ArgumentTypeError."""
    match = re.fullmatch(r"(\d{1,6})(s|m|h)?", text)
    seconds = int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"] if match else 0
    if not 1 <= seconds <= MAX_DURATION_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration from 1s to 1h, such as 20s or 5m")
    return seconds


def locust_command(name: str, url: str, duration_s: int, users: int) -> list[str]:
    scenario = SCENARIOS[name]
    argv = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfiles" / f"{name}.py")]
    argv += ["--headless", "--only-summary", "--host", url, "--stop-timeout", "10s"]
    if scenario.shaped:
        return argv
    return [*argv, "-u", str(users), "-r", str(scenario.spawn_per_s), "-t", f"{duration_s}s"]


def judge(report: str) -> tuple[int, list[str]]:
    """How many requests a report has, and each kind of failure; that nothing was asked is one too.

    Raises KeyError or ValueError when it is none of ``locustfiles/report.py``.
    """
    value = json.loads(report)
    total = int(value["requests"])
    wrong = [f"{failure['occurrences']} x {failure['name']}: {failure['error']}" for failure in value["failures"]]
    if not total:
        wrong.append("no request was made")
    return total, wrong


def play(name: str, stand: Stand, duration_s: int, users: int) -> int:
    """Run Locust on a stand; prints what it found and returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="workerproxy-locust-") as directory:
        report = Path(directory) / "report.json"
        env = {**os.environ, "PYTHONPATH": str(ROOT), "WORKERPROXY_LOAD_REPORT": str(report)}
        env["WORKERPROXY_LOAD_SECONDS"] = str(duration_s)
        before = cpu_seconds(stand.proxy.pid)
        argv = locust_command(name, stand.url, duration_s, users)
        done = subprocess.run(argv, env=env, cwd=ROOT, timeout=duration_s + _GRACE_S, check=False)
        cpu_s = cpu_seconds(stand.proxy.pid) - before
        try:
            total, wrong = judge(report.read_text())
        except (OSError, ValueError, KeyError) as error:
            print(f"Locust ended with {done.returncode} and left no report: {error!r}", file=sys.stderr)
            return 1
    wrong += stand.complaints()
    print(f"{name}: {total} requests in {duration_s} s, {cpu_s * 1e6 / max(1, total):.0f} us CPU of the proxy for each")
    for line in wrong:
        print(f"WRONG: {line}")
    return 1 if wrong or done.returncode else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.run", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("scenario", choices=list(SCENARIOS))
    parser.add_argument("--duration", type=parse_duration, default=20, help="20s, 5m, ... (default: 20s)")
    parser.add_argument("--users", type=int, default=0, help="how many users (default: the scenario's)")
    parser.add_argument("--workers", type=int, default=2, help="workers of the proxy (default: %(default)s)")
    parser.add_argument("--proxy", choices=["workerproxy", "envoy"], default="workerproxy")
    options = parser.parse_args(arguments)
    exit_on_sigterm()
    raise_descriptor_limit(8192)
    try:
        with demo_stand(options.proxy, options.workers) as stand:
            users = options.users or SCENARIOS[options.scenario].users
            return play(options.scenario, stand, options.duration, users)
    except (FileNotFoundError, NotReadyError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

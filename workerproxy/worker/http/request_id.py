"""x-request-id: version-4 UUIDs from the system's randomness, drawn in batches. Envoy: ``UUIDRequestIDExtension``."""

from __future__ import annotations

import os
from typing import Final

_BATCH: Final = 256
_VARIANT: Final = {n: b"89ab"[n % 4 : n % 4 + 1] for n in b"0123456789abcdef"}


class RequestIds:
    """One per worker; made after the fork, so no two workers share a state."""

    __slots__ = ("_pool",)

    def __init__(self) -> None:
        self._pool: list[bytes] = []

    def next(self) -> bytes:
        """A new UUID as 36 lower-case characters."""
        if not self._pool:
            self._fill()
        return self._pool.pop()

    def _fill(self) -> None:
        digits = os.urandom(16 * _BATCH).hex().encode()
        for at in range(0, 32 * _BATCH, 32):
            d = digits[at : at + 32]
            self._pool.append(b"%b-%b-4%b-%b%b-%b" % (d[:8], d[8:12], d[13:16], _VARIANT[d[16]], d[17:20], d[20:32]))

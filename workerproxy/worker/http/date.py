"""The ``date`` header's value, made once in 500 ms (RFC 9110 section 5.6.7). Envoy: ``TlsCachingDateProvider``."""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from workerproxy.worker.network.dispatcher import Dispatcher

_REFRESH_S: Final = 0.5


class DateProvider:
    """``value`` is always current; the timer is the worker's only one that runs without traffic."""

    __slots__ = ("_dispatcher", "value")

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.value = b""
        self._refresh()

    def _refresh(self) -> None:
        self.value = formatdate(usegmt=True).encode()
        self._dispatcher.call_later(_REFRESH_S, self._refresh)

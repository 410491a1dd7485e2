"""The worker's event dispatcher: readiness callbacks, timers, deferred calls. Envoy's name: ``Event::Dispatcher``.

A thin face of the (uvloop) event loop: connections register their callbacks with the loop directly, so that an event
costs one Python call. Timers are kept in one queue per duration: a request needs several timeouts and nearly all are
cancelled, so setting and cancelling must be two dictionary operations, without a heap.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from workerproxy.worker.network.peer_watch import PeerWatch

T = TypeVar("T")

_log = logging.getLogger("workerproxy.dispatcher")

# Two timers this close together expire in one tick; far below any timeout's resolution (milliseconds).
_TICK_S = 0.001
_QUEUES = 1024  # from so many on unused ones are dropped: clients may choose durations (x-envoy-upstream-rq-timeout-ms)


class TimerQueue(Generic[T]):
    """Timeouts of one duration: ``set`` and ``cancel`` are O(1); expiry calls ``callback(target)``, oldest first.

    A target is in the queue at most once. ``duration_s`` is in seconds, above 0.
    """

    __slots__ = ("_callback", "_clock", "_deadlines", "_handle", "_loop", "duration_s")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        duration_s: float,
        callback: Callable[[T], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.duration_s = duration_s
        self._loop = loop
        self._clock = clock
        self._callback = callback
        self._deadlines: dict[T, float] = {}  # in order of deadline, since all durations are equal
        self._handle: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._deadlines)

    def set(self, target: T) -> None:
        """Start the timeout of ``target``, or start it anew."""
        deadlines = self._deadlines
        if target in deadlines:
            del deadlines[target]
        deadlines[target] = self._clock() + self.duration_s
        if self._handle is None:
            self._handle = self._loop.call_later(self.duration_s, self._expire)

    def cancel(self, target: T) -> None:
        """Forget the timeout of ``target``; nothing happens when there is none."""
        self._deadlines.pop(target, None)

    def _expire(self) -> None:
        deadlines = self._deadlines
        now = self._clock() + _TICK_S
        while deadlines:
            target = next(iter(deadlines))
            deadline = deadlines[target]
            if deadline > now:
                self._handle = self._loop.call_later(deadline - now + _TICK_S, self._expire)
                return
            del deadlines[target]
            try:
                self._callback(target)
            except Exception:  # costs this target what its timeout would have done, and no other one its timeout
                _log.exception("internal error in the timeout of %r", target)
        self._handle = None

    def disarm(self) -> None:
        """Let go of the loop's timer. Only while the queue is empty; ``set`` starts it again."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class Dispatcher:
    """One per worker. ``clock`` gives monotonic seconds; ``new_socket`` (family, type) makes sockets for upstreams.

    ``peers`` watches for resets where the loop is a real one.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = monotonic,
        new_socket: Callable[[int, int], socket.socket] = socket.socket,
        peers: PeerWatch | None = None,
    ) -> None:
        self.loop = loop
        self.clock = clock
        self.new_socket = new_socket
        self.peers = peers
        self._queues: dict[tuple[float, Callable[..., None]], TimerQueue[object]] = {}
        self._most_queues = _QUEUES

    def timers(self, duration_s: float, callback: Callable[[T], None]) -> TimerQueue[T]:
        """The queue of this duration and callback; while it is in use the same pair gives the same queue."""
        key = (duration_s, callback)
        queue = self._queues.get(key)
        if queue is None:
            if len(self._queues) >= self._most_queues:
                self._drop_unused()
            queue = self._queues[key] = TimerQueue(self.loop, duration_s, callback, self.clock)  # type: ignore[arg-type]
        return queue  # type: ignore[return-value]

    def _drop_unused(self) -> None:
        """Forget empty queues; whoever still holds one may go on using it."""
        for key, queue in list(self._queues.items()):
            if not len(queue):
                queue.disarm()
                del self._queues[key]
        self._most_queues = max(_QUEUES, 2 * len(self._queues))

    def post(self, callback: Callable[[], object]) -> None:
        """Run ``callback`` in the next turn of the loop."""
        self.loop.call_soon(callback)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        return self.loop.call_later(delay_s, callback)

"""What the data plane is given by the worker around it, and what the worker asks of the data plane.

Made once, from the birth message. Knows no configuration: that comes with ``DataPlane.prepare``.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from workerproxy.control.board import LimitsBoard
    from workerproxy.control.stats_segment import StatsWriter


class Refused(Exception):
    """This worker cannot serve a configuration; the text says why, in one line, for the operator."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What of the command line concerns a worker. Names as in ``config.options.Options``."""

    drain_time_s: int
    drain_strategy: Literal["gradual", "immediate"]
    file_flush_interval_ms: int


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """One worker's surroundings, for as long as it lives."""

    worker_id: int
    concurrency: int
    loop: asyncio.AbstractEventLoop
    options: WorkerOptions
    stats: StatsWriter
    board: LimitsBoard
    log: logging.Logger


class DataPlaneInterface(Protocol):
    """The proxy itself, as the worker drives it. Calls come from the event loop, one at a time, and never block."""

    def prepare(
        self, version: int, bootstrap: Any, hosts: dict[str, list[tuple[str, int, int]]], slots: dict[str, int]
    ) -> None:
        """Build everything of a configuration, serve nothing of it. Raises ``Refused``; then nothing has changed."""

    def commit(self, version: int) -> None:
        """Serve what was prepared. Streams keep the configuration they began with."""

    def abort(self, version: int) -> None:
        """Forget what was prepared."""

    def add_listener_socket(self, listener_name: str, sock: socket.socket) -> None:
        """Accept on this socket; before the commit that has its listener, it waits."""

    def update_hosts(self, cluster: str, hosts: list[tuple[str, int, int]]) -> None:
        """What a DNS cluster resolves to now: ``control.messages.Hosts``."""

    def start_drain(self, seconds: float, gradual: bool) -> None:
        """``Connection: close`` on responses from now on: on a share of them that grows to all in ``seconds``.

        Not gradual: on all of them, and connections that are idle are closed.
        """

    def end_drain(self) -> None:
        """Take ``start_drain`` back."""

    def stop_accepting(self) -> None:
        """Accept what is queued, then read the listening sockets no more. The worker closes them afterwards."""

    def active_connections(self) -> int:
        """Downstream connections that are open."""

    def close_all(self) -> None:
        """Close everything at once."""

    def reopen_logs(self) -> None: ...

    def flush_logs(self) -> None: ...

    def cluster_report(self) -> list[dict[str, Any]]: ...

"""What the data plane is given by the worker around it, and what the worker asks of the data plane.

Made once, from the birth message. Knows no configuration: that comes with ``DataPlane.prepare``.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap

    from workerproxy.control.board import LimitsBoard
    from workerproxy.control.messages import Hosts, Prepare
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
    board_fd: int  # the board's file, for locks; -1 for none
    log: logging.Logger


class Leftovers(NamedTuple):
    """What a commit leaves behind: it may finish within the drain time."""

    connections: int  # of the listeners that it removed or moved
    streams: int  # on the routes and clusters that it removed


class DataPlaneInterface(Protocol):
    """The proxy itself, as the worker drives it. Calls come from the event loop, one at a time, and never block.

    Sockets that are given to it are its own from then on.
    """

    # configuration

    def prepare(self, message: Prepare, bootstrap: Bootstrap) -> None:
        """Build everything of a configuration, serve nothing of it. ``bootstrap`` is the message's, parsed.

        Raises ``Refused``; then nothing has changed.
        """

    def commit(self, version: int) -> Leftovers:
        """Serve what was prepared. Streams keep the configuration they began with; what is gone from it drains.

        Sockets of binds that no listener has any more are read until ``stop_accepting``.
        """

    def abort(self, version: int) -> None:
        """Forget what was prepared."""

    def update_hosts(self, cluster: str, hosts: Hosts) -> None:
        """What a DNS cluster resolves to now."""

    def set_board_rows(self, rows: int) -> None:
        """So many rows of the limits board are summed up."""

    # sockets

    def add_socket(self, bind: int, index: int, sock: socket.socket) -> None:
        """Accept on this socket; until a commit gives its bind to a listener, it waits."""

    def release_socket(self, bind: int, index: int) -> None:
        """Close this socket at once: what is queued on it is somebody else's. Nothing happens when it is not here."""

    def refuse_new(self) -> None:
        """Have the kernel ignore new handshakes on every socket, for all processes that read it; hand none over."""

    def stop_accepting(self, binds: Collection[int] | None) -> None:
        """Accept what is queued on the sockets of these binds (None: of all), then close them."""

    def balance_group(self, rows: Sequence[int], receiving: socket.socket, sending: Sequence[socket.socket]) -> None:
        """The workers among which connections of ``exact_balance`` listeners are handed; see ``BalanceGroup``."""

    def take_handed_over(self) -> None:
        """Take every connection that other workers have handed to this one by now."""

    def probe(self, sock: socket.socket) -> None:
        """Serve this connection through the whole data path, without an origin: 200 to everything."""

    # draining

    def start_drain(self, seconds: float, gradual: bool, listeners: Collection[str]) -> None:
        """``Connection: close`` on responses of these listeners (none named: all), and their idle connections close.

        Gradual: on a share that grows to all in ``seconds``. Else on all from now on, and idle connections are closed
        once they have been idle for a second.
        """

    def end_drain(self) -> None:
        """Take ``start_drain`` back. What a commit has removed goes on to drain."""

    def active_connections(self) -> int:
        """Downstream connections that are open."""

    def close_all(self) -> None:
        """Close everything at once."""

    # logs and reports

    def reopen_logs(self) -> None: ...

    def flush_logs(self) -> None: ...

    def cluster_report(self) -> list[dict[str, Any]]: ...

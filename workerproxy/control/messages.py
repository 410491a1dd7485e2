"""The control pipe's vocabulary: one table of everything the main process and a worker say to each other.

And what two main processes say when one program hands over to the next, over the same kind of pipe.

A message is a small frozen dataclass. On the wire it is JSON of its fields; one field of type ``bytes`` may follow the
JSON as it is (the configuration: protobuf), and descriptors travel beside it (``fds``, with SCM_RIGHTS). Nothing is
pickled, every field is checked against its annotation when it arrives. To add a message is to add a class and a row.

A question is a message sent with a request id; its answer carries the same id (the last column of the table).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, Final, get_args, get_origin, get_type_hints

PROTOCOL_VERSION: Final = 2

# (IP address, port, which endpoint of the cluster's load_assignment it is an address of, counted over all localities),
# in the order in which they are to be used.
Hosts = list[tuple[str, int, int]]


class ProtocolError(Exception):
    """What came over the control pipe is no message of this version: a bug, or two versions of the program."""


@dataclass(frozen=True, slots=True)
class Message:
    """The base of all messages. ``fds`` belong to the sender until sent, to the receiver from then on."""

    type_number: ClassVar[int]

    fds: list[int] = field(default_factory=list, kw_only=True, compare=False)


# --- main process to worker


@dataclass(frozen=True, slots=True)
class Birth(Message):
    """All that a worker inherits, and the first message it reads.

    ``fds``: its statistics segment, the limits board, a file for its stack when it is asked for it or crashes.

    ``row``: its row of the board, which no other living process has; ``rows``: how many rows are summed up.
    ``provisional``: another program still serves on the same sockets, and goes on if this one fails; see ``Settled``.
    """

    worker_id: int
    row: int
    rows: int
    provisional: bool
    concurrency: int
    drain_time_s: int
    drain_strategy: str  # "gradual" or "immediate"
    file_flush_interval_ms: int
    log_level: str
    component_log_levels: dict[str, str]
    log_format: str
    log_format_given: bool  # by the command line; else the journal, where logs go there, has its own
    log_format_escaped: bool
    log_path: str  # empty: stderr


@dataclass(frozen=True, slots=True)
class ListenerSockets(Message):
    """Listening sockets to read, one in ``fds`` for each pair of ``binds`` and ``indexes``.

    A *bind* is one bound address, its number never used again; its sockets (SO_REUSEPORT) have indexes from 0. Which
    listener a bind belongs to is said by ``Prepare``. A worker may read several sockets of one bind.
    """

    binds: list[int]
    indexes: list[int]


@dataclass(frozen=True, slots=True)
class ReleaseSockets(Message):
    """Read these sockets no more and close the copies. What is queued on them stays: another worker reads them now."""

    binds: list[int]
    indexes: list[int]


@dataclass(frozen=True, slots=True)
class Prepare(Message):
    """Build everything of this configuration, serve nothing of it yet."""

    version: int
    bootstrap: bytes  # envoy.config.bootstrap.v3.Bootstrap
    hosts: dict[str, Hosts]  # of the clusters whose addresses the main process resolves
    # "<cluster>/<default|high>/<connections|pending|requests|retries>", "<listener>/listener", "/listener" (of all)
    # -> slot of the board
    slots: dict[str, int]
    binds: dict[str, list[int]]  # listener -> the binds it is served on


@dataclass(frozen=True, slots=True)
class Commit(Message):
    """Serve the prepared configuration from now on. What is gone from it drains, for the drain time at most.

    The sockets of binds that no listener has any more are read until ``StopAccepting`` names them.
    """

    version: int


@dataclass(frozen=True, slots=True)
class Abort(Message):
    """Forget the prepared configuration."""

    version: int


@dataclass(frozen=True, slots=True)
class HostsUpdate(Message):
    """The addresses of a cluster have changed."""

    cluster: str
    hosts: Hosts


@dataclass(frozen=True, slots=True)
class Drain(Message):
    """Tell clients to close: ``Connection: close`` on responses, with growing probability when ``gradual``.

    ``listeners``: the names of those that are meant; empty: all.
    """

    seconds: float
    gradual: bool
    listeners: list[str]


@dataclass(frozen=True, slots=True)
class EndDrain(Message):
    """Take back a Drain."""


@dataclass(frozen=True, slots=True)
class StopAccepting(Message):
    """Accept what is queued on the sockets of these binds, then close the copies. Connections go on."""

    binds: list[int]


@dataclass(frozen=True, slots=True)
class Retire(Message):
    """This worker is to leave: from now on it says ``Draining`` whenever the number of its connections changes.

    It has been told to drain and reads no listening socket any more.
    """


@dataclass(frozen=True, slots=True)
class BoardRows(Message):
    """So many rows of the board are summed up from now on."""

    rows: int


@dataclass(frozen=True, slots=True)
class BalanceGroup(Message):
    """The workers that connections of ``exact_balance`` listeners are handed among, by their rows of the board.

    ``fds``: the receiving end of this worker, then the sending end of each of ``rows`` (this worker's own included).
    The whole group each time: who is no longer in it is handed nothing more.
    """

    rows: list[int]


@dataclass(frozen=True, slots=True)
class Settled(Message):
    """The listening sockets are this program's alone: should its main process end, nobody else reads them."""


@dataclass(frozen=True, slots=True)
class Probe(Message):
    """Serve one connection, the socket in ``fds``, through the whole data path without an origin: 200 to any GET."""


@dataclass(frozen=True, slots=True)
class Stop(Message):
    """Close what is left and exit with 0."""


@dataclass(frozen=True, slots=True)
class FlushStats(Message):
    """Publish the statistics now."""


@dataclass(frozen=True, slots=True)
class SetLogLevel(Message):
    """``level`` for all components unless it is empty, then each of ``components``."""

    level: str
    components: dict[str, str]


@dataclass(frozen=True, slots=True)
class ReopenLogs(Message):
    """Close and open again every log file: they have been moved away."""


@dataclass(frozen=True, slots=True)
class Heartbeat(Message):
    """Are you there?"""


@dataclass(frozen=True, slots=True)
class ReportClusters(Message):
    """Tell the counters of every host, for ``/clusters``."""


# --- worker to main process


@dataclass(frozen=True, slots=True)
class Prepared(Message):
    version: int


@dataclass(frozen=True, slots=True)
class Refused(Message):
    """This worker cannot serve that configuration; it goes on with what it has."""

    version: int
    why: str


@dataclass(frozen=True, slots=True)
class Committed(Message):
    """``connections`` of removed listeners and ``streams`` on removed routes and clusters drain in this worker."""

    version: int
    connections: int
    streams: int


@dataclass(frozen=True, slots=True)
class Done(Message):
    """The answer to whatever has no answer of its own: it has been applied."""


@dataclass(frozen=True, slots=True)
class Draining(Message):
    """How many downstream connections are left, after Retire. 0 comes once."""

    active: int


@dataclass(frozen=True, slots=True)
class StatsFlushed(Message):
    """The statistics of this moment are in the segment."""


@dataclass(frozen=True, slots=True)
class HeartbeatAck(Message):
    """``lag_ms``: the longest the event loop was late since the last one."""

    lag_ms: float
    active: int  # downstream connections


@dataclass(frozen=True, slots=True)
class ClusterReport(Message):
    """Per cluster and host: the counters of ``/clusters``."""

    clusters: list[dict[str, Any]]


# --- between two main processes, when one program hands over to the next


@dataclass(frozen=True, slots=True)
class AskHandOver(Message):
    """The new one asks for everything. ``version``: of this vocabulary, ``control.hot_restart.HOT_RESTART_VERSION``."""

    version: str
    stats: bool  # whether statistics are wanted


@dataclass(frozen=True, slots=True)
class OldSockets(Message):
    """The listening sockets of one bind, in their order, in ``fds``. ``pipe``: a file that belongs to it, or empty."""

    listener: str
    shared: bool
    pipe: str


@dataclass(frozen=True, slots=True)
class OldAdmin(Message):
    """The admin listener's socket in ``fds``. ``configured``: its ``core.v3.Address``, serialized."""

    pipe: str
    configured: bytes


@dataclass(frozen=True, slots=True)
class OldWorker(Message):
    """A worker that runs, with its row of the board; ``fds``: its statistics segment."""

    row: int
    pid: int


@dataclass(frozen=True, slots=True)
class HandOver(Message):
    """All of it was said. ``fds``: the limits board. ``slots``: of the board; ``stats``: JSON, what else was counted.

    ``epoch`` counts programs from 0; ``started_at`` of the first one, seconds of the system's monotonic clock.
    """

    pid: int
    epoch: int
    workers: int
    started_at: float
    slots: dict[str, int]
    stats: bytes


@dataclass(frozen=True, slots=True)
class RefusedHandOver(Message):
    """It is not possible; ``why``."""

    why: str


@dataclass(frozen=True, slots=True)
class TakenOver(Message):
    """The new workers serve on the sockets of these addresses; the old ones may leave."""

    addresses: list[str]
    rows: int


@dataclass(frozen=True, slots=True)
class TakeOverFailed(Message):
    """The new program cannot serve, and ends. The old one goes on."""

    why: str


@dataclass(frozen=True, slots=True)
class NewRows(Message):
    """So many rows of the board are summed up from now on, in the old workers too."""

    rows: int


@dataclass(frozen=True, slots=True)
class EndOld(Message):
    """The old program is to hurry: tell every client to close; ``now``: end, whatever is still going on."""

    now: bool


@dataclass(frozen=True, slots=True)
class OldWorkerGone(Message):
    """A worker of the old program has ended: its row of the board is free, its statistics are final."""

    row: int


@dataclass(frozen=True, slots=True)
class OldConnections(Message):
    """How many downstream connections the old program still has."""

    active: int


# number, class, who says it, what answers it ("" for nothing). Numbers are never used again for something else.
MAIN: Final = "main"
WORKER: Final = "worker"
OLD_MAIN: Final = "old main"
NEW_MAIN: Final = "new main"
_ROWS: Final[tuple[tuple[int, type[Message], str, str], ...]] = (
    (1, Birth, MAIN, ""),
    (2, ListenerSockets, MAIN, ""),
    (3, Prepare, MAIN, "Prepared or Refused"),
    (4, Commit, MAIN, "Committed"),
    (5, Abort, MAIN, "Done"),
    (6, HostsUpdate, MAIN, ""),
    (7, Drain, MAIN, "Done"),
    (8, EndDrain, MAIN, "Done"),
    (9, StopAccepting, MAIN, "Done"),
    (10, Stop, MAIN, ""),
    (11, FlushStats, MAIN, "StatsFlushed"),
    (12, SetLogLevel, MAIN, "Done"),
    (13, ReopenLogs, MAIN, "Done"),
    (14, Heartbeat, MAIN, "HeartbeatAck"),
    (15, ReportClusters, MAIN, "ClusterReport"),
    (16, ReleaseSockets, MAIN, "Done"),
    (17, Retire, MAIN, "Done"),
    (18, BoardRows, MAIN, "Done"),
    (19, BalanceGroup, MAIN, "Done"),
    (20, Probe, MAIN, "Done"),
    (21, Settled, MAIN, ""),
    (33, Prepared, WORKER, ""),
    (34, Refused, WORKER, ""),
    (35, Committed, WORKER, ""),
    (36, Done, WORKER, ""),
    (37, Draining, WORKER, ""),
    (38, StatsFlushed, WORKER, ""),
    (39, HeartbeatAck, WORKER, ""),
    (40, ClusterReport, WORKER, ""),
    (65, AskHandOver, NEW_MAIN, "HandOver or RefusedHandOver"),
    (66, TakenOver, NEW_MAIN, "Done"),
    (67, TakeOverFailed, NEW_MAIN, ""),
    (68, NewRows, NEW_MAIN, ""),
    (69, EndOld, NEW_MAIN, ""),
    (70, OldSockets, OLD_MAIN, ""),
    (71, OldAdmin, OLD_MAIN, ""),
    (72, OldWorker, OLD_MAIN, ""),
    (73, HandOver, OLD_MAIN, ""),
    (74, RefusedHandOver, OLD_MAIN, ""),
    (75, OldWorkerGone, OLD_MAIN, ""),
    (76, OldConnections, OLD_MAIN, ""),
)


def _number_rows() -> MappingProxyType[int, type[Message]]:
    for number, cls, _, _ in _ROWS:
        cls.type_number = number
    return MappingProxyType({number: cls for number, cls, _, _ in _ROWS})


MESSAGES: Final = _number_rows()
"""The table: type number -> class."""


def sender_of(cls: type[Message]) -> str:
    """Who says this message: ``MAIN`` or ``WORKER``."""
    return next(sender for _, row, sender, _ in _ROWS if row is cls)


def answer_of(cls: type[Message]) -> str:
    """What answers this message, in words; "" for nothing."""
    return next(answer for _, row, _, answer in _ROWS if row is cls)


def encode(message: Message) -> bytes:
    """A message's payload: length of the JSON (four bytes), the JSON, the bytes field if there is one."""
    plain: dict[str, Any] = {}
    blob = b""
    for one in fields(message):
        value = getattr(message, one.name)
        if isinstance(value, bytes):
            blob = value
        elif one.name != "fds":
            plain[one.name] = value
    text = json.dumps(plain, separators=(",", ":")).encode()
    return len(text).to_bytes(4, "big") + text + blob


def decode(type_number: int, payload: bytes, fds: list[int]) -> Message:
    """The message of a payload. Raises ``ProtocolError``, which names what does not fit."""
    cls = MESSAGES.get(type_number)
    if cls is None:
        raise ProtocolError(f"unknown message type {type_number}")
    size = int.from_bytes(payload[:4], "big")
    if len(payload) < 4 + size:
        raise ProtocolError(f"{cls.__name__}: {len(payload)} bytes are too few")
    try:
        plain = json.loads(payload[4 : 4 + size])
    except ValueError as error:
        raise ProtocolError(f"{cls.__name__}: {error}") from None
    if not isinstance(plain, dict):
        raise ProtocolError(f"{cls.__name__}: not an object")
    hints = {name: hint for name, hint in get_type_hints(cls).items() if name not in ("fds", "type_number")}
    blob_name = next((name for name, hint in hints.items() if hint is bytes), None)
    if blob_name is not None:
        plain[blob_name] = payload[4 + size :]
    if plain.keys() != hints.keys():
        raise ProtocolError(f"{cls.__name__}: fields {sorted(plain)} instead of {sorted(hints)}")
    values = {name: _restore(f"{cls.__name__}.{name}", hints[name], value) for name, value in plain.items()}
    return cls(**values, fds=fds)


def _restore(where: str, hint: Any, value: Any) -> Any:
    """Check a value that came as JSON against its annotation; lists become tuples where those are meant."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin is list and isinstance(value, list):
        return [_restore(where, get_args(hint)[0], item) for item in value]
    if origin is dict and isinstance(value, dict):
        return {key: _restore(where, get_args(hint)[1], item) for key, item in value.items()}
    if origin is tuple and isinstance(value, list) and len(value) == len(get_args(hint)):
        return tuple(_restore(where, one, item) for one, item in zip(get_args(hint), value, strict=True))
    if hint is float and type(value) in (int, float):
        return float(value)
    if origin is None and type(value) is hint:
        return value
    raise ProtocolError(f"{where}: {value!r} is no {hint}")

"""The control pipe's vocabulary: one table of everything the main process and a worker say to each other.

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

PROTOCOL_VERSION: Final = 1

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
    """All that a worker inherits, and the first message it reads. ``fds``: its statistics segment, the limits board."""

    worker_id: int
    concurrency: int
    drain_time_s: int
    drain_strategy: str  # "gradual" or "immediate"
    file_flush_interval_ms: int
    log_level: str
    component_log_levels: dict[str, str]
    log_format: str
    log_format_escaped: bool
    log_path: str  # empty: stderr


@dataclass(frozen=True, slots=True)
class ListenerSockets(Message):
    """Listening sockets, one in ``fds`` for each name. A name may come more than once (several addresses)."""

    names: list[str]


@dataclass(frozen=True, slots=True)
class Prepare(Message):
    """Build everything of this configuration, serve nothing of it yet."""

    version: int
    bootstrap: bytes  # envoy.config.bootstrap.v3.Bootstrap
    hosts: dict[str, Hosts]  # of the clusters whose addresses the main process resolves
    # "<cluster>/<default|high>/<connections|pending|requests|retries>", "<listener>/listener", "/listener" (of all)
    # -> slot of the board
    slots: dict[str, int]


@dataclass(frozen=True, slots=True)
class Commit(Message):
    """Serve the prepared configuration from now on."""

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
    """Tell clients to close: ``Connection: close`` on responses, with growing probability when ``gradual``."""

    seconds: float
    gradual: bool


@dataclass(frozen=True, slots=True)
class EndDrain(Message):
    """Take back a Drain."""


@dataclass(frozen=True, slots=True)
class StopAccepting(Message):
    """Accept what is queued on the listening sockets, then no more. Connections go on.

    From now on the worker says ``Draining`` whenever the number of connections changes.
    """


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
    version: int


@dataclass(frozen=True, slots=True)
class Done(Message):
    """The answer to whatever has no answer of its own: it has been applied."""


@dataclass(frozen=True, slots=True)
class Draining(Message):
    """How many downstream connections are left, after StopAccepting. 0 comes once."""

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


# number, class, who says it, what answers it ("" for nothing). Numbers are never used again for something else.
MAIN: Final = "main"
WORKER: Final = "worker"
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
    (33, Prepared, WORKER, ""),
    (34, Refused, WORKER, ""),
    (35, Committed, WORKER, ""),
    (36, Done, WORKER, ""),
    (37, Draining, WORKER, ""),
    (38, StatsFlushed, WORKER, ""),
    (39, HeartbeatAck, WORKER, ""),
    (40, ClusterReport, WORKER, ""),
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

"""Continuous load on a proxy with honest counting: many kinds of client, every answer checked, every failure kept.

Behind the proxy must be ``workerproxy.demo_origin``. Each client is a thread that asks, pauses and asks again until the
load ends; what it asks is made so that only its own answer fits (a number of its own in the path, in a header, in the
number of lines or of bytes). About 300 requests a second in all, a tenth of a core.

A failure has a kind (``checked_connection.Kind``) and goes into the ``ledger``, which knows how it is to be counted.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from tests.support.checked_connection import TIMEOUT_S, Ask, CheckedConnection, ExchangeError, Kind
from tests.support.ledger import Failure, Ledger

_END_TIMEOUT_S: Final = TIMEOUT_S + 5.0  # for the clients to finish what they do
_RENEW: Final = 0.02  # how often a keep-alive client takes a new connection, so that none stays with one worker
_STREAM_S: Final = 1.5  # how long a slow answer or upload takes, on average


@dataclass(frozen=True, slots=True)
class Mix:
    """How many clients of each kind."""

    keep_alive: int = 12  # small requests on connections that stay
    new_connection: int = 4  # one request for each; every other time the client asks for the close
    stream: int = 6  # answers that take one to two seconds
    upload: int = 4  # requests that take as long
    late: int = 4  # connect, wait, ask, and ask again after more than a second of silence


BUSY_MIX: Final = Mix(new_connection=12, late=8)  # many connections are being made at any moment
SMALL_MIX: Final = Mix(keep_alive=3, new_connection=1, stream=1, upload=1, late=1)


@dataclass(slots=True)
class Tally:
    """What came of the load, kept by all clients together."""

    requests: Counter[str] = field(default_factory=Counter)  # by kind of client, failed ones included
    connections: int = 0
    told_to_close: int = 0  # answers that ended their connection though the client had not asked for it
    closed_idle: int = 0  # connections that were found closed before the next request: no failure, clients look first
    turned_away: int = 0  # could not connect after ``expect_the_end``: no failure
    slowest_s: float = 0.0  # a small request, with its connect
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


class ContinuousLoad:
    """Used as a context manager: the clients run inside. ``port`` is the proxy's, ``seed`` decides every pause."""

    def __init__(self, port: int, mix: Mix | None = None, *, seed: int = 0, timeout_s: float = TIMEOUT_S) -> None:
        self._port = port
        self._timeout_s = timeout_s
        self._tally = Tally()
        self._over = threading.Event()
        self._ending = threading.Event()
        self.ledger = Ledger()
        self._mix = mix or Mix()
        kinds: list[tuple[str, int, Callable[[_Client], None]]] = [
            ("keep-alive", self._mix.keep_alive, _keep_alive),
            ("new connection", self._mix.new_connection, _new_connection),
            ("stream", self._mix.stream, _stream),
            ("upload", self._mix.upload, _upload),
            ("late", self._mix.late, _late),
        ]
        self._clients = [
            _Client(self, name, behaviour, random.Random(f"{seed} {name} {index}"))
            for name, count, behaviour in kinds
            for index in range(count)
        ]

    # --- what the test tells

    def expect_the_end(self) -> None:
        """The proxy is about to go: whoever is refused from now on was turned away and leaves. Nothing else changes."""
        self._ending.set()

    # --- what came of it

    def requests(self) -> int:
        return self._tally.requests.total()

    def report(self, title: str) -> str:
        """One line for a table, and below it what else is known and the first reasons."""
        tally = self._tally
        kinds = ", ".join(f"{name} {count:,}" for name, count in sorted(tally.requests.items()))
        more = f"{tally.connections:,} connections, {tally.told_to_close:,} told to close, "
        more += f"{tally.closed_idle} closed while idle, {tally.turned_away} turned away at the end; "
        more += f"slowest small answer {tally.slowest_s:.2f} s"
        return "\n".join([self.ledger.line(title, self.requests()), f"  {kinds}", f"  {more}", *self.ledger.reasons()])

    # --- life

    def wait_requests(self, more: int, timeout_s: float = 30.0) -> None:
        """Return when so many further requests have been answered or have failed: the load has seen what is there."""
        goal = self.requests() + more
        deadline = time.monotonic() + timeout_s
        while self.requests() < goal:
            if time.monotonic() > deadline:
                raise AssertionError(f"only {self.requests()} of {goal} requests within {timeout_s:g} s")
            time.sleep(0.01)

    def wait_clients(self, timeout_s: float) -> None:
        """Return when every client has left by itself, after ``expect_the_end``."""
        deadline = time.monotonic() + timeout_s
        for client in self._clients:
            client.join(max(0.0, deadline - time.monotonic()))
        left = [client.name for client in self._clients if client.is_alive()]
        if left:
            raise AssertionError(f"still there after {timeout_s:g} s: {left}")

    def __enter__(self) -> Self:
        for client in self._clients:
            client.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Every client finishes the request it is at."""
        self._over.set()
        deadline = time.monotonic() + _END_TIMEOUT_S
        for client in self._clients:
            client.join(max(0.0, deadline - time.monotonic()))
        if error is None:
            left = [client.name for client in self._clients if client.is_alive()]
            broken = [client.broken for client in self._clients if client.broken]
            assert not left, f"clients that do not end: {left}"
            assert not broken, f"clients that failed themselves: {broken}"


class _Client(threading.Thread):
    """One client. Its behaviour is called again and again; it asks with ``ask`` and waits with ``pause``."""

    def __init__(
        self, load: ContinuousLoad, kind: str, behaviour: Callable[[_Client], None], rng: random.Random
    ) -> None:
        super().__init__(name=f"load: {kind}", daemon=True)
        self.kind = kind
        self.rng = rng
        self.broken = ""
        self.connection: CheckedConnection | None = None
        self._load = load
        self._behaviour = behaviour

    def run(self) -> None:
        try:
            self.pause(0.0, 0.2)
            while not self._load._over.is_set():
                try:
                    self._behaviour(self)
                except ExchangeError as error:
                    if self._failed(error):
                        return
                    self.pause(0.01, 0.05)
        except _Over:
            pass
        except Exception as error:
            self.broken = f"{self.kind}: {type(error).__name__}: {error}"
        finally:
            self.drop()

    def pause(self, low_s: float, high_s: float) -> None:
        """Wait a random time. Raises ``_Over`` when the load ends meanwhile."""
        if self._load._over.wait(self.rng.uniform(low_s, high_s)):
            raise _Over

    def connect(self) -> CheckedConnection:
        """The open connection, or a new one."""
        if self.connection is not None and self.connection.open and not self._found_closed(self.connection):
            return self.connection
        self.drop()
        self.connection = CheckedConnection(self._load._port, self._load._timeout_s)
        with self._load._tally.lock:
            self._load._tally.connections += 1
        return self.connection

    def drop(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def ask(self, request: Ask, *, small: bool = True) -> None:
        """Ask on the open connection or on a new one."""
        tally = self._load._tally
        started = time.monotonic()
        connection = self.connect()
        connection.ask(request)
        took_s = time.monotonic() - started
        with tally.lock:
            tally.requests[self.kind] += 1
            tally.told_to_close += not connection.open and not request.last
            if small:
                tally.slowest_s = max(tally.slowest_s, took_s)

    def _found_closed(self, connection: CheckedConnection) -> bool:
        if connection.answered == 0 or not connection.ended():
            return False  # an unused one that is closed is a failure: ``ask`` finds it
        with self._load._tally.lock:
            self._load._tally.closed_idle += 1
        return True

    def _failed(self, error: ExchangeError) -> bool:
        """Write it down; True when this client has nothing left to do."""
        tally = self._load._tally
        with tally.lock:
            if error.kind is Kind.REFUSED and self._load._ending.is_set():
                tally.turned_away += 1
                return True
            tally.requests[self.kind] += 1
        self._load.ledger.add(Failure.of(self.kind, error))
        return False


class _Over(Exception):
    """The load ends."""


# --- what clients do


_numbers = iter(range(1, 1 << 62))
_numbers_lock = threading.Lock()


def unique_number() -> int:
    """A number that no other request of this process has."""
    with _numbers_lock:
        return next(_numbers)


def small_request(*, last: bool = False) -> Ask:
    """The origin says which path it was asked for."""
    path = f"/id/{unique_number()}"

    def check(body: bytes) -> str:
        return "" if body.endswith(f" answers GET {path}\n".encode()) else f"another's answer: {body[:80]!r}"

    return Ask(path, check, last=last)


def echo_request(*, last: bool = False) -> Ask:
    """The origin says which headers it got."""
    number = f"n{unique_number()}"

    def check(body: bytes) -> str:
        try:
            right = json.loads(body)["headers"]["x-load-id"] == number
        except (ValueError, KeyError, TypeError):
            right = False
        return "" if right else f"another's answer: {body[:200]!r}"

    return Ask("/headers", check, headers=f"x-load-id: {number}\r\ncookie: a=1; b=2\r\n", last=last)


def stream_request(seconds: float, *, last: bool = False) -> Ask:
    """An answer that takes so long; the number of its lines is (nearly) its own."""
    lines = 5 + unique_number() % 50
    pause_ms = max(1, round(seconds * 1000 / (lines - 1)))

    def check(body: bytes) -> str:
        got = body.decode("latin-1").splitlines()
        right = len(got) == lines and all(
            line.startswith(f"line {index} of {lines} from endpoint ") for index, line in enumerate(got, 1)
        )
        return "" if right else f"{len(got)} lines instead of {lines}, ending in {body[-60:]!r}"

    return Ask(f"/stream/{lines}/{pause_ms}", check, last=last)


def upload_request(seconds: float, *, last: bool = False) -> Ask:
    """A body in pieces that takes so long; its size is (nearly) its own."""
    pieces = 5
    size = 1000 + unique_number() % 5000

    def check(body: bytes) -> str:
        try:
            right = json.loads(body)["bytes"] == size * pieces
        except (ValueError, KeyError, TypeError):
            right = False
        return "" if right else f"{size * pieces} bytes were sent, and the answer is {body[:80]!r}"

    return Ask("/upload", check, pieces=(b"u" * size,) * pieces, pause_s=seconds / pieces, last=last)


def _keep_alive(client: _Client) -> None:
    if client.rng.random() < _RENEW:
        client.drop()
    client.ask(echo_request() if client.rng.random() < 0.2 else small_request())
    client.pause(0.02, 0.07)


def _new_connection(client: _Client) -> None:
    client.ask(small_request(last=client.rng.random() < 0.5))
    client.drop()
    client.pause(0.02, 0.08)


def _stream(client: _Client) -> None:
    if client.rng.random() < 0.5:
        client.drop()
    client.ask(stream_request(client.rng.uniform(0.7, 1.3) * _STREAM_S), small=False)
    client.pause(0.0, 0.2)


def _upload(client: _Client) -> None:
    if client.rng.random() < 0.5:
        client.drop()
    client.ask(upload_request(client.rng.uniform(0.7, 1.3) * _STREAM_S), small=False)
    client.pause(0.0, 0.2)


def _late(client: _Client) -> None:
    client.drop()
    client.connect()
    client.pause(0.05, 0.5)
    client.ask(small_request())
    client.pause(1.2, 2.5)
    client.ask(small_request())

"""Whatever clients, origins and the network do, in whatever order: in the end every gauge and every limit is 0.

A state machine of hypothesis plays clients and origins at random. While it plays, what is counted must agree with what
is there; when all have left, nothing may remain: no socket, no event, no timeout, no number.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.worker.fakes import Peer
from tests.unit.worker.proxy import ORIGIN, Proxy
from workerproxy.extensions.base import (
    CONTINUE,
    STOP_ALL_AND_BUFFER,
    STOP_AND_BUFFER,
    STOP_AND_WATERMARK,
    STOP_ITERATION,
    Body,
    StreamFilter,
)
from workerproxy.http.headers import RequestHeaders, ResponseHeaders
from workerproxy.worker.upstream.host import ip_host

OTHER = ("192.0.2.2", 8080)
REQUESTS = {
    "get": b"GET / HTTP/1.1\r\nhost: h\r\n\r\n",
    "close": b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    "head": b"HEAD / HTTP/1.1\r\nhost: h\r\n\r\n",
    "two": b"GET /1 HTTP/1.1\r\nhost: h\r\n\r\nGET /2 HTTP/1.1\r\nhost: h\r\n\r\n",
    "post": b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\nabcd",
    "large": b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 400\r\n\r\n" + b"x" * 400,
    "expect": b"POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n",
    "chunked": b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
    "unfinished": b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\n",
    "part": b"GET / HTTP/1.1\r\n",
    "end": b"abcd",
    "last chunk": b"0\r\n\r\n",
    "garbage": b"\x00\x01 nonsense\r\n\r\n",
    "refused": b"GET nonsense HTTP/1.1\r\nhost: h\r\n\r\n",
}
RESPONSES = {
    "ok": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "empty": b"HTTP/1.1 204 No Content\r\n\r\n",
    "close": b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
    "head": b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\n",
    "body": b"x" * 400,
    "some": b"x" * 100,
    "chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
    "last chunk": b"0\r\n\r\n",
    "until close": b"HTTP/1.1 200 OK\r\n\r\nok",
    "early hints": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "half": b"HTTP/1.1 200 O",
    "garbage": b"nonsense\r\n\r\n",
}
CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {"cluster": {"circuit_breakers": {"thresholds": [{"max_connections": 1, "max_pending_requests": 2}]}}},
    {"cluster": {"circuit_breakers": {"thresholds": [{"max_requests": 1}]}}},
    {"cluster": {"common_http_protocol_options": {"max_requests_per_connection": 2, "idle_timeout": "20s"}}},
    {
        "cluster": {"common_http_protocol_options": {"max_connection_duration": "7s", "max_stream_duration": "9s"}},
        "hcm": {"common_http_protocol_options": {"max_connection_duration": "8s", "max_requests_per_connection": 3}},
    },
    {
        "listener": {"per_connection_buffer_limit_bytes": 100},
        "cluster": {"per_connection_buffer_limit_bytes": 100},
        "hcm": {"proxy_100_continue": True},
    },
    {
        "hcm": {
            "request_headers_timeout": "3s",
            "request_timeout": "6s",
            "stream_idle_timeout": "5s",
            "common_http_protocol_options": {"idle_timeout": "15s", "max_stream_duration": "11s"},
        }
    },
    {"routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "4s", "idle_timeout": "2s"}}]},
]


class Whims(StreamFilter):
    """Stops, answers and goes on as the statuses of a list say; goes on by itself a second after it stopped."""

    statuses: list[int] = [CONTINUE]  # noqa: RUF012 - set by the state machine
    turn = 0

    def _next(self) -> int:
        Whims.turn += 1
        status = self.statuses[Whims.turn % len(self.statuses)]
        if status < 0:
            self.callbacks.send_local_reply(-status, b"whim")
            return STOP_ITERATION
        if status != CONTINUE:
            self.callbacks.call_later(1.0, self._go_on)
        return status

    def _go_on(self) -> None:
        self.callbacks.continue_decoding()
        self.callbacks.continue_encoding()

    def decode_headers(self, headers: RequestHeaders, end_stream: bool) -> int:
        return self._next()

    def decode_data(self, data: Body, end_stream: bool) -> int:
        return self._data(self._next())

    def encode_headers(self, headers: ResponseHeaders, end_stream: bool) -> int:
        return self._next()

    def encode_data(self, data: Body, end_stream: bool) -> int:
        return self._data(self._next())

    @staticmethod
    def _data(status: int) -> int:
        """A status for headers as one for data."""
        return {STOP_ITERATION: STOP_AND_BUFFER, STOP_ALL_AND_BUFFER: STOP_AND_WATERMARK}.get(status, status)


class Traffic(RuleBasedStateMachine):
    """Clients and origins are chosen by a number; it counts around those that there are."""

    proxy: Proxy

    @initialize(
        number=st.integers(0, len(CONFIGURATIONS) - 1),
        whims=st.none() | st.lists(st.sampled_from([CONTINUE, STOP_ITERATION, STOP_ALL_AND_BUFFER, -403]), min_size=1),
    )
    def start(self, number: int, whims: list[int] | None) -> None:
        Whims.statuses = whims or [CONTINUE]
        Whims.turn = 0
        self.proxy = Proxy(
            hosts=[ORIGIN, OTHER], filters=[Whims] if whims is not None else [], **CONFIGURATIONS[number]
        )
        self.hosts = list(self.proxy.cluster.hosts)
        self.clients: list[Peer] = []
        self.connect()

    @rule()
    def connect(self) -> None:
        self.clients.append(self.proxy.client(("192.0.2.7", 5000 + len(self.clients))))

    @rule(which=st.integers(0, 3), what=st.sampled_from(sorted(REQUESTS)))
    def request(self, which: int, what: str) -> None:
        self.client(which).send(REQUESTS[what])

    @rule(which=st.integers(0, 3), how=st.sampled_from(["fin", "reset"]))
    def client_leaves(self, which: int, how: str) -> None:
        getattr(self.client(which), how)()

    @rule(which=st.integers(0, 3), size=st.sampled_from([0, 10, 300, None]))
    def client_reads(self, which: int, size: int | None) -> None:
        client = self.client(which)
        if size == 0:
            client.window = 0
        else:
            client.open_window(size)

    @rule(which=st.integers(0, 3), what=st.sampled_from(sorted(RESPONSES)))
    def respond(self, which: int, what: str) -> None:
        for origin in self.origins(which):
            origin.send(RESPONSES[what])

    @rule(which=st.integers(0, 3), how=st.sampled_from(["fin", "reset"]))
    def origin_leaves(self, which: int, how: str) -> None:
        for origin in self.origins(which):
            getattr(origin, how)()

    @rule(size=st.sampled_from([1, 50, None]), which=st.integers(0, 3))
    def origin_reads(self, size: int | None, which: int) -> None:
        for origin in self.origins(which):
            origin.open_window(size)
        self.proxy.network.origin_window = size

    @rule(how=st.sampled_from(["well", "refusing", "silent", "unreachable", "no descriptors"]))
    def connects_end(self, how: str) -> None:
        network = self.proxy.network
        network.refusing = {ORIGIN, OTHER} if how == "refusing" else set()
        network.silent = {ORIGIN, OTHER} if how == "silent" else set()
        network.unreachable = {ORIGIN, OTHER} if how == "unreachable" else set()
        network.descriptors_left = 0 if how == "no descriptors" else None

    @rule()
    def handshakes_end(self) -> None:
        for sock in self.proxy.network.upstream:
            if sock.connecting and not sock.is_closed:
                self.proxy.network.let_connect(sock)
        self.proxy.loop.run()

    @rule(seconds=st.sampled_from([0.5, 1.5, 3.0, 6.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.proxy.loop.advance(seconds)

    @rule(addresses=st.lists(st.sampled_from([ORIGIN, OTHER]), unique=True))
    def hosts_change(self, addresses: list[tuple[str, int]]) -> None:
        cluster = self.proxy.cluster
        cluster.set_hosts([ip_host(*address) for address in addresses])
        self.hosts += [host for host in cluster.hosts if host not in self.hosts]

    @rule(how=st.sampled_from(["drain", "gradual", "undrain"]))
    def drain(self, how: str) -> None:
        if how == "undrain":
            self.proxy.listener.end_drain()
        else:
            self.proxy.listener.start_drain(10, gradual=how == "gradual")

    @invariant()
    def what_is_counted_is_there(self) -> None:
        if not hasattr(self, "proxy"):
            return
        stats, breakers = self.proxy.cluster.stats, self.proxy.cluster.breakers
        pools = [host.pool for host in self.hosts]
        busy = sum(len(pool.busy) for pool in pools)
        pending = sum(len(pool.pending) for pool in pools)
        connections = sum(len(pool.busy) + len(pool.ready) + len(pool.connecting) for pool in pools)
        assert stats.upstream_rq_active == breakers.requests.value == busy
        assert stats.upstream_rq_pending_active == breakers.pending.value == pending
        assert stats.upstream_cx_active == breakers.connections.value == connections
        assert connections == self.proxy.network.open_upstream()
        assert all(host.cx_active >= 0 and host.rq_active >= 0 for host in self.hosts)
        managers = self.proxy.listener.connections
        assert self.proxy.stats.downstream_cx_active == len(managers)
        assert self.proxy.stats.downstream_rq_active == sum(manager.stream is not None for manager in managers)
        for manager in managers:
            assert manager.connection.read_disabled >= 0 or manager.connection.state
        for pool in pools:
            assert all(not client.connection.read_disabled for client in pool.ready)

    def teardown(self) -> None:
        if not hasattr(self, "proxy"):
            return
        for client in self.clients:
            client.window = None
            client.fin()
        self.proxy.loop.advance(10)
        for _ in range(5):  # what one ending frees may begin something new
            for peer in [*self.clients, *self.origins_left()]:
                peer.fin()
            self.proxy.loop.advance(20)
        self.proxy.assert_nothing_left()
        assert sum(host.cx_active + host.rq_active for host in self.hosts) == 0
        logged = self.proxy.stats.downstream_rq_total
        assert len(self.proxy.log.infos) == logged

    def client(self, which: int) -> Peer:
        return self.clients[which % len(self.clients)]

    def origins(self, which: int) -> list[Peer]:
        """One origin that still has a connection, if there is any."""
        alive = self.origins_left()
        return [alive[which % len(alive)]] if alive else []

    def origins_left(self) -> list[Peer]:
        return [sock.peer for sock in self.proxy.network.upstream if not sock.is_closed and not sock.connecting]


Traffic.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestTraffic = Traffic.TestCase

"""The connection pool: who waits, who gets which connection, and what remains when things end."""

from __future__ import annotations

import errno
from typing import Any, cast

import pytest

from tests.unit.worker.fakes import Peer
from tests.unit.worker.proxy import ORIGIN, Surroundings
from workerproxy.http import outcome
from workerproxy.http.outcome import ResetReason
from workerproxy.worker.http.codec.client_codec import ClientCodec
from workerproxy.worker.upstream.active_client import ActiveClient, State
from workerproxy.worker.upstream.connection_pool import ConnectionPool
from workerproxy.worker.upstream.host import ip_host

HEAD = b"GET / HTTP/1.1\r\n\r\n"


class Request:
    """Stands where an ``UpstreamRequest`` does: writes a head, takes whatever happens."""

    def __init__(self) -> None:
        self.client: ActiveClient | None = None
        self.got: list[Any] = []

    def on_pool_ready(self, client: ActiveClient) -> None:
        self.client = client
        client.codec.expect(b"GET")
        client.connection.write(HEAD)

    def on_pool_failure(self, reason: ResetReason, transport_failure: str) -> None:
        self.got.append((reason, transport_failure))

    def on_response_read(self, codec: ClientCodec) -> None:
        while codec.messages and codec.messages[0].complete:
            self.got.append(codec.messages.popleft().headers.status)

    def on_response_eof(self, codec: ClientCodec) -> None:
        client = self.client
        assert client is not None
        client.pool.on_client_failed(client, local=False)
        self.on_reset(outcome.CONNECTION_TERMINATION, "")

    def on_reset(self, reason: ResetReason, transport_failure: str) -> None:
        self.got.append(reason)
        self.finish(False)

    def finish(self, reusable: bool = True) -> None:
        client, self.client = self.client, None
        if client is not None:
            client.request_done(reusable)

    def on_above_high(self) -> None:
        self.got.append("high")

    def on_below_low(self) -> None:
        self.got.append("low")


class Bench(Surroundings):
    """One cluster of one host."""

    def __init__(self, **cluster: Any) -> None:
        super().__init__(cluster)

    @property
    def pool(self) -> ConnectionPool:
        return self.cluster.hosts[0].pool

    def start(self) -> Request:
        request = Request()
        self.pool.new_stream(cast(Any, request))
        return request

    def started(self) -> Request:
        request = self.start()
        self.loop.run()
        assert request.client is not None
        return request

    def origin(self, number: int = -1) -> Peer:
        return self.network.upstream[number].peer

    def silent(self) -> None:
        """Connects do not end."""
        self.network.silent.add(ORIGIN)


def limits(**maxima: int) -> dict[str, Any]:
    return {"circuit_breakers": {"thresholds": [{f"max_{name}": value for name, value in maxima.items()}]}}


# getting a connection


def test_the_first_request_connects_and_is_written_when_connected() -> None:
    bench = Bench()
    request = bench.start()
    assert request.client is None
    assert repr(bench.pool) == "<ConnectionPool 192.0.2.1:8080 ready=0 busy=0 connecting=1 pending=1>"
    bench.loop.run()
    assert bench.origin().received == HEAD
    assert bench.network.upstream[0].connected_to == ORIGIN
    assert repr(bench.pool) == "<ConnectionPool 192.0.2.1:8080 ready=0 busy=1 connecting=0 pending=0>"
    assert bench.cluster.stats.upstream_cx_total == 1
    assert bench.cluster.stats.upstream_rq_total == 1
    assert bench.cluster.stats.upstream_rq_pending_total == 1


def test_a_connection_is_used_again_the_last_one_first() -> None:
    bench = Bench()
    requests = [bench.started() for _ in range(3)]
    for request in requests:
        request.finish()
    request = bench.started()
    assert request.client is bench.pool.cluster.hosts[0].pool.busy.copy().pop()
    assert bench.origin(2).received == HEAD * 2
    assert bench.cluster.stats.upstream_cx_total == 3
    assert bench.cluster.stats.upstream_rq_pending_total == 3


def test_connections_are_made_one_for_each_that_waits() -> None:
    bench = Bench()
    bench.silent()
    for count in range(1, 4):
        bench.start()
        assert len(bench.pool.connecting) == count


def test_a_connection_that_becomes_free_serves_who_waits_longest() -> None:
    bench = Bench()
    first = bench.started()
    bench.silent()
    second, third = bench.start(), bench.start()
    first.finish()
    assert second.client is not None
    assert third.client is None
    assert len(bench.pool.connecting) == 2


def test_a_connection_begun_for_a_request_that_left_serves_the_next() -> None:
    bench = Bench()
    bench.silent()
    request = bench.start()
    bench.pool.cancel(cast(Any, request))
    assert bench.cluster.stats.upstream_rq_cancelled == 1
    assert bench.cluster.stats.upstream_rq_pending_active == 0
    next_request = bench.start()
    assert len(bench.network.upstream) == 1
    bench.network.let_connect(bench.network.upstream[0])
    bench.loop.run()
    assert next_request.client is not None
    assert request.got == []
    bench.pool.cancel(cast(Any, next_request))  # it waits no longer: nothing happens
    assert bench.cluster.stats.upstream_rq_cancelled == 1


# a connect that fails


def test_a_refused_connect_fails_everyone_who_waits() -> None:
    bench = Bench()
    bench.network.refusing.add(ORIGIN)
    bench.silent()
    requests = [bench.start() for _ in range(3)]
    bench.network.let_connect(bench.network.upstream[1])
    bench.loop.run()
    failure = (outcome.REMOTE_CONNECTION_FAILURE, "delayed connect error: Connection refused")
    assert [request.got for request in requests] == [[failure]] * 3
    stats = bench.cluster.stats
    assert stats.upstream_cx_connect_fail == 1
    assert stats.upstream_rq_pending_failure_eject == 3
    assert stats.upstream_cx_active == 2  # the others go on connecting
    assert bench.cluster.hosts[0].connect_fail == 1


def test_a_connect_that_fails_at_once_is_told_in_the_next_turn() -> None:
    bench = Bench()
    bench.network.unreachable.add(ORIGIN)
    request = bench.start()
    assert request.got == []
    bench.loop.run()
    assert request.got == [(outcome.REMOTE_CONNECTION_FAILURE, "immediate connect error: Network is unreachable")]
    assert bench.upstream_left() == {}
    assert bench.events_left() == {}


def test_a_connect_that_takes_too_long() -> None:
    bench = Bench(connect_timeout="0.25s")
    bench.silent()
    request = bench.start()
    bench.loop.advance(0.2)
    assert request.got == []
    bench.loop.advance(0.1)
    assert request.got == [(outcome.CONNECTION_TIMEOUT, "")]
    assert bench.cluster.stats.upstream_cx_connect_timeout == 1
    assert bench.cluster.stats.upstream_cx_connect_fail == 1
    assert bench.upstream_left() == {}
    assert bench.events_left() == {}


def test_no_descriptor_for_a_connection() -> None:
    bench = Bench()
    bench.network.descriptors_left = 0
    request = bench.start()
    assert request.got == [(outcome.LOCAL_CONNECTION_FAILURE, "Too many open files")]
    assert bench.upstream_left() == {}
    bench.network.descriptors_left = None
    assert bench.started().client is not None


def test_who_fails_may_ask_again_at_once() -> None:
    """As a pipelined request does."""
    bench = Bench()
    bench.network.refusing.add(ORIGIN)
    second = Request()

    class Again(Request):
        def on_pool_failure(self, reason: ResetReason, transport_failure: str) -> None:
            bench.network.refusing.clear()
            bench.pool.new_stream(cast(Any, second))

    bench.pool.new_stream(cast(Any, Again()))
    bench.loop.run()
    assert second.client is not None


# circuit breakers


def test_no_more_requests_wait_than_may() -> None:
    bench = Bench(**limits(pending_requests=2))
    bench.silent()
    requests = [bench.start() for _ in range(3)]
    assert [request.got for request in requests] == [[], [], [(outcome.OVERFLOW, "")]]
    assert bench.cluster.stats.upstream_rq_pending_overflow == 1


def test_no_more_connections_than_may_be_but_one_if_there_is_none() -> None:
    bench = Bench(**limits(connections=0))
    request = bench.start()
    waiting = bench.start()
    bench.loop.run()
    assert request.client is not None
    assert waiting.client is None
    assert len(bench.network.upstream) == 1
    assert bench.cluster.stats.upstream_cx_overflow > 0
    request.finish()
    assert waiting.client is not None


def test_no_more_requests_at_once_than_may_be() -> None:
    bench = Bench(**limits(requests=1))
    first = bench.started()
    second = bench.start()
    bench.loop.run()
    assert second.got == [(outcome.OVERFLOW, "")]
    assert bench.cluster.stats.upstream_rq_active_overflow == 1
    assert len(bench.pool.ready) == 1  # the connection made for it stays
    third = bench.start()
    assert third.got == [(outcome.OVERFLOW, "")]
    first.finish()
    assert bench.start().client is not None


def test_a_connection_that_was_made_for_nothing_grows_old_too() -> None:
    """A regression: when every request that waited was refused by a limit, no idle timeout was started."""
    bench = Bench(**limits(requests=1), common_http_protocol_options={"idle_timeout": "10s"})
    first = bench.started()
    bench.start()
    bench.loop.run()
    assert len(bench.pool.ready) == 1
    bench.loop.advance(11)
    assert bench.pool.ready == []
    first.finish()
    bench.loop.advance(11)
    assert bench.upstream_left() == {}


@pytest.mark.parametrize("ending", ["fin", "reset"])
def test_who_waits_for_a_busy_connection_is_served_when_it_breaks(ending: str) -> None:
    """A regression: at the connection limit those who waited were forgotten when the busy connection was lost."""
    bench = Bench(**limits(connections=1))
    first = bench.started()
    waiting = bench.start()
    assert len(bench.network.upstream) == 1
    getattr(bench.origin(0), ending)()
    assert first.got == [outcome.CONNECTION_TERMINATION]
    assert len(bench.network.upstream) == 2
    assert waiting.client is not None


def test_who_waits_for_a_busy_connection_is_served_when_it_is_closed() -> None:
    bench = Bench(**limits(connections=1))
    first = bench.started()
    waiting = bench.start()
    first.finish(reusable=False)
    bench.loop.run()
    assert waiting.client is not None


# reuse and its end


def test_a_connection_that_is_not_reusable_is_closed() -> None:
    bench = Bench()
    bench.started().finish(reusable=False)
    assert bench.upstream_left() == {}
    assert bench.cluster.stats.upstream_cx_destroy_local == 1


def test_a_connection_carries_no_more_requests_than_it_may() -> None:
    bench = Bench(common_http_protocol_options={"max_requests_per_connection": 2})
    first = bench.started()
    client = first.client
    assert client is not None
    first.finish()
    second = bench.started()
    assert second.client is client
    assert repr(client) == "<ActiveClient 1 DRAINING 192.0.2.1:8080>"
    second.finish()
    assert repr(client) == "<ActiveClient 1 CLOSED 192.0.2.1:8080>"
    assert bench.cluster.stats.upstream_cx_max_requests == 1
    assert bench.upstream_left() == {}


def test_idle_connections_are_closed_when_their_time_is_over() -> None:
    bench = Bench(common_http_protocol_options={"idle_timeout": "10s"})
    first, second = bench.started(), bench.started()
    first.finish()
    bench.pool.ready[0].idle_since = bench.loop.now
    bench.loop.advance(6)
    client = second.client
    second.finish()
    bench.pool.ready[1].idle_since = bench.loop.now
    bench.loop.advance(5)
    assert bench.pool.ready == [client]
    bench.loop.advance(4)
    assert bench.pool.ready == [client]
    bench.loop.advance(2)
    assert bench.pool.ready == []
    assert bench.cluster.stats.upstream_cx_idle_timeout == 2
    assert bench.upstream_left() == {}
    assert bench.loop.waiting() == []


def test_an_idle_connection_that_the_origin_closes_is_forgotten() -> None:
    bench = Bench()
    bench.started().finish()
    bench.origin().fin()
    assert bench.upstream_left() == {}
    assert bench.cluster.stats.upstream_cx_destroy_remote == 1
    assert bench.cluster.stats.upstream_cx_destroy_with_active_rq == 0


def test_bytes_that_nobody_asked_for_close_the_connection() -> None:
    bench = Bench()
    bench.started().finish()
    bench.origin().send(b"HTTP/1.1 200 OK\r\n\r\n")
    assert bench.upstream_left() == {}
    assert bench.cluster.stats.upstream_cx_protocol_error == 1


def test_a_connection_may_not_grow_older_than_its_time() -> None:
    bench = Bench(common_http_protocol_options={"max_connection_duration": "10s"})
    busy, idle = bench.started(), bench.started()
    idle.finish()
    bench.loop.advance(11)
    assert bench.pool.ready == []
    assert bench.cluster.stats.upstream_cx_max_duration_reached == 2
    client = busy.client
    assert client is not None
    assert client.state is State.DRAINING
    busy.finish()
    assert bench.upstream_left() == {}
    assert bench.events_left() == {}


def test_a_response_with_its_request_lost_is_counted_as_such() -> None:
    bench = Bench()
    bench.started()
    bench.origin().fin()
    stats = bench.cluster.stats
    assert stats.upstream_cx_destroy_with_active_rq == 1
    assert stats.upstream_cx_destroy_remote_with_active_rq == 1
    assert bench.upstream_left() == {}


def test_a_reused_connection_that_breaks_while_it_is_written() -> None:
    bench = Bench()
    bench.started().finish()
    bench.origin().send_error = BrokenPipeError(errno.EPIPE, "Broken pipe")
    request = bench.start()
    assert request.got == [outcome.CONNECTION_TERMINATION]
    assert bench.upstream_left() == {}


def test_back_pressure_reaches_the_request_of_the_connection() -> None:
    bench = Bench(per_connection_buffer_limit_bytes=1000)
    bench.network.origin_window = len(HEAD)
    request = bench.started()
    client = request.client
    assert client is not None
    client.connection.write(b"x" * 1001)
    assert request.got == ["high"]
    bench.origin().open_window(None)
    assert request.got == ["high", "low"]
    stats = bench.cluster.stats
    assert (stats.upstream_flow_control_backed_up_total, stats.upstream_flow_control_drained_total) == (1, 1)


# hosts come and go


def test_a_host_that_left_loses_its_idle_connections_now_and_busy_ones_later() -> None:
    bench = Bench()
    busy, idle = bench.started(), bench.started()
    idle.finish()
    pool = bench.pool
    host = bench.cluster.hosts[0]
    bench.cluster.set_hosts([])
    assert pool.ready == []
    assert bench.network.open_upstream() == 1
    busy.finish()
    assert bench.network.open_upstream() == 0
    assert (host.cx_active, host.rq_active) == (0, 0)
    assert bench.upstream_left() == {}


def test_a_host_that_left_while_it_was_connected_to_still_serves_who_waits() -> None:
    bench = Bench()
    bench.silent()
    request = bench.start()
    unwanted = bench.start()
    pool = bench.pool
    pool.cancel(cast(Any, unwanted))
    bench.cluster.set_hosts([])
    for sock in bench.network.upstream:
        bench.network.let_connect(sock)
    bench.loop.run()
    assert request.client is not None
    request.finish()
    assert bench.network.open_upstream() == 0
    assert bench.upstream_left() == {}


def test_a_host_that_stays_keeps_its_connections() -> None:
    bench = Bench()
    bench.started().finish()
    bench.cluster.set_hosts([ip_host(*ORIGIN), ip_host("192.0.2.2", 80)])
    assert len(bench.cluster.hosts) == 2
    assert len(bench.pool.ready) == 1


def test_of_two_hosts_with_one_address_none_is_left_behind() -> None:
    """A regression: the first of them kept its connections after both had left."""
    bench = Bench()
    bench.cluster.set_hosts([ip_host(*ORIGIN), ip_host(*ORIGIN)])
    pools = [host.pool for host in bench.cluster.hosts]
    for pool in pools:
        request = Request()
        pool.new_stream(cast(Any, request))
        bench.loop.run()
        request.finish()
    bench.cluster.set_hosts([])
    assert bench.network.open_upstream() == 0


def test_bytes_of_open_connections_are_counted_when_asked_for_and_once() -> None:
    bench = Bench()
    request = bench.started()
    bench.cluster.collect_stats()
    assert bench.cluster.stats.upstream_cx_tx_bytes_total == len(HEAD)
    bench.origin().send(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert request.got == [204]
    request.finish(reusable=False)
    bench.cluster.collect_stats()
    assert bench.cluster.stats.upstream_cx_tx_bytes_total == len(HEAD)
    assert bench.cluster.stats.upstream_cx_rx_bytes_total == len(b"HTTP/1.1 204 No Content\r\n\r\n")


def test_connect_and_life_times_are_recorded() -> None:
    bench = Bench()
    bench.silent()
    request = bench.start()
    bench.loop.advance(0.25)
    bench.network.let_connect(bench.network.upstream[0])
    bench.loop.run()
    bench.loop.advance(1)
    request.finish(reusable=False)
    assert bench.cluster.stats.upstream_cx_connect_ms.pending == [250]
    assert bench.cluster.stats.upstream_cx_length_ms.pending == [1250]

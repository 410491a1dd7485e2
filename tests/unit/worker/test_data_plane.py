"""The data plane over its versions: which listener a socket belongs to, what drains, and what is left in the end."""

from __future__ import annotations

import asyncio
import logging
import mmap
import socket
from dataclasses import replace
from typing import Any, cast

import pytest
import uvloop

from tests.unit.worker.fakes import FakeSocket, Peer
from tests.unit.worker.plane import TO_ORIGIN, Plane, cluster, listener
from tests.unit.worker.proxy import GET, OK, head_and_body
from workerproxy.control.stats_segment import StatsWriter
from workerproxy.worker.context import Leftovers
from workerproxy.worker.data_plane import DataPlane


def test_a_socket_waits_until_its_bind_belongs_to_a_listener() -> None:
    lab = Plane()
    lab.bind(1)
    client = lab.client()
    assert lab.plane.active_connections() == 0
    lab.commit({"a": [1]}, listener("a"))
    lab.loop.run()
    assert lab.plane.active_connections() == 1
    assert lab.exchange(client)
    lab.bind(1, index=1)
    assert lab.exchange(lab.client(index=1))


def test_a_released_socket_is_somebody_elses_and_the_others_go_on() -> None:
    lab = Plane()
    for index in range(2):
        lab.bind(1, index)
    lab.bind(2)
    lab.commit({"a": [1]}, listener("a"))
    lab.sockets[1, 0].arrive()
    lab.plane.release_socket(1, 0)
    lab.plane.release_socket(2, 0)
    lab.plane.release_socket(3, 0)
    lab.loop.run()
    assert (lab.sockets[1, 0].is_closed, lab.sockets[2, 0].is_closed) == (True, True)
    assert len(lab.sockets[1, 0].backlog) == 1
    assert lab.plane.active_connections() == 0
    assert lab.exchange(lab.client(index=1))


def test_a_listener_that_keeps_its_address_keeps_its_connections_over_a_reload() -> None:
    lab = Plane()
    lab.bind(1)
    lab.commit({"a": [1]}, listener("a"))
    client = lab.client()
    left = lab.commit({"a": [1]}, listener("a", routes=[{**TO_ORIGIN, "name": "new"}]))
    assert left == Leftovers(0, 0)
    assert b"connection" not in lab.exchange(client)
    assert lab.exchange(lab.client())
    assert not lab.sockets[1, 0].is_closed


def test_a_listener_without_sockets_in_this_worker_stays_itself_all_the_same() -> None:
    lab = Plane()
    lab.bind(1)
    lab.commit({"a": [1]}, listener("a"))
    client = lab.client()
    lab.plane.release_socket(1, 0)
    assert lab.commit({"a": [1]}, listener("a", routes=[{**TO_ORIGIN, "name": "new"}])).connections == 0
    assert b"connection" not in lab.exchange(client)


def test_a_removed_listener_accepts_until_it_is_told_to_stop_and_drains() -> None:
    lab = Plane()
    lab.bind(1)
    lab.bind(2, port=81)
    lab.commit({"a": [1], "b": [2]}, listener("a"), listener("b", 81))
    busy, idle, staying = lab.client(), lab.client(), lab.client(2)
    busy.send(GET)
    assert lab.commit({"b": [2]}, listener("b", 81)) == Leftovers(2, 0)
    late = lab.client()
    queued = lab.sockets[1, 0].arrive()
    lab.plane.stop_accepting([1])
    assert lab.sockets[1, 0].is_closed
    lab.loop.run()
    for client in (late, queued):
        assert lab.exchange(client)[b"connection"] == b"close"
        assert client.got_fin
    lab.loop.advance(1)
    assert idle.got_fin
    assert not busy.got_fin
    lab.network.origins()[0].send(OK)
    assert head_and_body(busy.take())[1][b"connection"] == b"close"
    assert busy.got_fin
    assert b"connection" not in lab.exchange(staying)
    for client in (busy, idle, late, queued):
        client.fin()
    assert lab.plane.active_connections() == 1
    assert not lab.plane._removed


def test_a_listener_that_moves_to_another_address_is_a_new_one_and_the_old_one_drains() -> None:
    lab = Plane()
    lab.bind(1)
    lab.commit({"a": [1]}, listener("a"))
    old = lab.client()
    lab.bind(2, port=81)
    assert lab.commit({"a": [2]}, listener("a", 81)) == Leftovers(1, 0)
    assert b"connection" not in lab.exchange(lab.client(2))
    assert lab.exchange(old)[b"connection"] == b"close"
    assert lab.exchange(lab.client(1))[b"connection"] == b"close"
    lab.plane.stop_accepting([1])
    assert not lab.sockets[2, 0].is_closed


def test_statistics_that_an_old_and_a_new_listener_share_are_those_of_both() -> None:
    lab = Plane()
    lab.bind(1)
    lab.commit({"a": [1]}, listener("a", stat_prefix="x"))
    old = lab.client()
    lab.bind(2, port=81)
    lab.commit({"a": [2]}, listener("a", 81, stat_prefix="x"))
    new = lab.client(2)
    values = lab.shown()
    assert (
        values.gauges["listener.x.downstream_cx_active"]
        == values.gauges["listener.x.worker_0.downstream_cx_active"]
        == 2
    )
    old.fin()
    values = lab.shown()
    assert values.gauges["listener.x.downstream_cx_active"] == 1
    assert values.counters["listener.x.downstream_cx_total"] == 2
    new.fin()
    assert lab.shown().gauges["listener.x.downstream_cx_active"] == 0


def test_open_connections_follow_a_listener_whose_statistics_get_another_name() -> None:
    lab = Plane()
    lab.bind(1)
    lab.commit({"a": [1]}, listener("a", stat_prefix="x"))
    client = lab.client()
    lab.commit({"a": [1]}, listener("a", stat_prefix="y"))
    values = lab.shown()
    assert values.gauges["listener.y.downstream_cx_active"] == 1
    assert "listener.x.downstream_cx_active" not in values.gauges
    client.fin()
    assert lab.shown().gauges["listener.y.downstream_cx_active"] == 0
    lab.commit({"a": [1]}, listener("a", stat_prefix="x"))
    assert lab.shown().gauges["listener.x.downstream_cx_active"] == 0


def test_a_bind_moves_to_the_listener_that_has_it_now() -> None:
    lab = Plane()
    lab.bind(1)
    lab.commit({"a": [1]}, listener("a"))
    old = lab.client()
    lab.sockets[1, 0].arrive()
    assert lab.commit({"b": [1]}, listener("b")).connections == 1
    lab.loop.run()
    assert not lab.sockets[1, 0].is_closed
    assert lab.plane._listeners["b"].connections
    assert b"connection" not in lab.exchange(lab.client())
    assert lab.exchange(old)[b"connection"] == b"close"


def test_two_listeners_can_change_places() -> None:
    lab = Plane()
    lab.bind(1)
    lab.bind(2, port=81)
    answers = [[{"match": {"prefix": "/"}, "direct_response": {"status": status}}] for status in (298, 299)]
    lab.commit({"a": [1], "b": [2]}, listener("a", 80, answers[0]), listener("b", 81, answers[1]))
    old = lab.client(1)
    lab.commit({"a": [2], "b": [1]}, listener("a", 81, answers[0]), listener("b", 80, answers[1]))
    for client, status in ((lab.client(1), b"299"), (lab.client(2), b"298"), (old, b"298")):
        client.send(GET)
        assert client.take().split()[1] == status
    assert old.got_fin


def test_a_bind_of_a_refused_configuration_is_given_back() -> None:
    lab = Plane()
    lab.bind(1)
    lab.commit({"a": [1]}, listener("a"))
    lab.bind(2, port=81)
    lab.prepare({"a": [1], "b": [2]}, listener("a"), listener("b", 81))
    lab.plane.abort(lab.version)
    lab.plane.release_socket(2, 0)
    assert lab.sockets[2, 0].is_closed
    assert lab.exchange(lab.client())


def test_the_port_that_was_bound_is_known_before_and_after_a_reload() -> None:
    lab = Plane()
    lab.bind(1, port=4711)
    lab.prepare({"a": [1]}, listener("a", 0))
    lab.plane.commit(lab.version)
    rules = lab.plane._listeners["a"].config.rules
    lab.commit({"a": [1]}, listener("a", 0))
    lab.plane.release_socket(1, 0)
    lab.commit({"a": [1]}, listener("a", 0))
    ports = [rules._port, lab.plane._listeners["a"].config.rules._port]
    assert ports == [4711, 4711]


def test_what_is_left_of_a_removed_listener_is_closed_when_the_drain_time_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lab = Plane(drain_time_s=30)
    lab.bind(1)
    lab.commit({"a": [1]}, listener("a"))
    clients = [lab.client() for _ in range(3)]
    for client in clients:
        client.send(GET)
    lab.commit({})
    lab.plane.stop_accepting([1])
    lab.loop.advance(29)
    assert lab.plane.active_connections() == 3
    with caplog.at_level(logging.WARNING, "workerproxy"):
        lab.loop.advance(2)
    assert [record.message for record in caplog.records] == [
        "listener a: the drain time is over; 3 connections are closed"
    ]
    assert all(client.is_closed for client in clients)
    assert lab.plane.active_connections() == 0


def test_a_gradual_drain_of_a_removed_listener_closes_idle_connections_spread_over_its_time() -> None:
    lab = Plane(drain_time_s=100, drain_strategy="gradual")
    lab.bind(1)
    lab.commit({"a": [1]}, listener("a"))
    clients = [lab.client() for _ in range(400)]
    lab.commit({})
    lab.plane.stop_accepting([1])
    closed = []
    for _ in range(10):
        lab.loop.advance(10)
        for client in clients:
            if client.got_fin and not client.is_closed:
                client.fin()
        closed.append(sum(client.is_closed for client in clients))
    assert closed[-1] == 400
    gone = [after - before for before, after in zip([0, *closed], closed, strict=False)]
    assert all(10 <= count <= 90 for count in gone), gone


def test_a_drain_can_be_of_some_listeners_and_taken_back() -> None:
    lab = Plane()
    lab.bind(1)
    lab.bind(2, port=81)
    lab.commit({"a": [1], "b": [2]}, listener("a"), listener("b", 81))
    lab.plane.start_drain(600, False, ["b", "unknown"])
    assert b"connection" not in lab.exchange(lab.client(1))
    assert lab.exchange(lab.client(2))[b"connection"] == b"close"
    lab.plane.end_drain()
    assert b"connection" not in lab.exchange(lab.client(2))


def test_the_end_of_a_drain_leaves_removed_listeners_draining() -> None:
    lab = Plane()
    lab.bind(1)
    lab.bind(2, port=81)
    lab.commit({"a": [1], "b": [2]}, listener("a"), listener("b", 81))
    removed = lab.client(2)
    lab.commit({"a": [1]}, listener("a"))
    lab.plane.start_drain(600, False, [])
    lab.plane.end_drain()
    assert b"connection" not in lab.exchange(lab.client(1))
    assert lab.exchange(removed)[b"connection"] == b"close"


def test_a_listener_that_comes_while_all_drain_drains_too() -> None:
    lab = Plane()
    lab.bind(1)
    lab.commit({"a": [1]}, listener("a"))
    lab.plane.start_drain(600, False, [])
    lab.bind(2, port=81)
    lab.commit({"a": [1], "b": [2]}, listener("a"), listener("b", 81))
    assert lab.exchange(lab.client(2))[b"connection"] == b"close"
    lab.plane.end_drain()
    assert b"connection" not in lab.exchange(lab.client(2))


def test_everything_is_closed_in_the_end() -> None:
    lab = Plane()
    for bind in (1, 2, 3):
        lab.bind(bind, port=bind)
    lab.commit({"a": [1], "b": [2]}, listener("a", 1), listener("b", 2))
    clients = [lab.client(1), lab.client(2)]
    lab.commit({"a": [1]}, listener("a", 1))
    lab.plane.close_all()
    assert all(client.is_closed for client in clients)
    assert all(sock.is_closed for sock in lab.sockets.values())
    assert lab.events_left().get("writers", 0) == 0


def test_new_handshakes_are_refused_on_every_socket() -> None:
    lab = Plane()
    for bind in (1, 2, 3):
        lab.bind(bind, port=bind)
    lab.commit({"a": [1], "b": [2]}, listener("a", 1), listener("b", 2))
    lab.commit({"a": [1]}, listener("a", 1))
    lab.plane.refuse_new()
    for sock in lab.sockets.values():
        assert 26 in [option for _, option, _ in sock.options]  # SO_ATTACH_FILTER
    lab.plane.stop_accepting(None)
    assert all(sock.is_closed for sock in lab.sockets.values())


def test_more_rows_of_the_board_are_summed_up_by_limits_in_use_and_prepared() -> None:
    lab = Plane()
    lab.commit({}, clusters=[cluster()])
    lab.prepare({}, clusters=[cluster(connect_timeout="1s")])
    lab.plane.set_board_rows(2)
    lab.plane.commit(lab.version)
    assert lab.context.board.rows == 2
    limit = lab.plane._clusters.clusters["origin"].breakers.requests
    assert limit._near == 1024 // 16


# The probe.


def probed(lab: Plane, request: bytes = GET) -> Peer:
    sock = FakeSocket(lab.network, socket.AF_UNIX, "")
    lab.plane.probe(cast(Any, sock))
    sock.peer.send(request)
    return sock.peer


@pytest.mark.parametrize("path", [b"/", b"/any/thing?x=1"])
def test_a_probe_is_answered_without_a_configuration_or_an_origin(path: bytes) -> None:
    lab = Plane()
    client = probed(lab, GET.replace(b"/ ", path + b" "))
    first, fields, body = head_and_body(client.take())
    assert (first, body) == (b"HTTP/1.1 200 OK", b"ok\n")
    assert fields[b"server"] == b"envoy"
    assert not lab.network.upstream
    client.fin()
    assert lab.events_left().get("timeouts", 0) == 0


def test_a_probe_shows_in_no_statistics_and_among_no_connections() -> None:
    lab = Plane()
    lab.commit({}, clusters=())
    before = lab.shown()
    client = probed(lab)
    assert client.take().endswith(b"ok\n")
    assert lab.plane.active_connections() == 0
    assert lab.shown() == before
    lab.plane.close_all()
    assert client.is_closed


def test_a_probe_is_refused_what_is_no_request() -> None:
    lab = Plane()
    assert probed(lab, b"nonsense\r\n\r\n").take().startswith(b"HTTP/1.1 400 ")


def test_a_probe_goes_over_a_real_pair_of_sockets() -> None:
    loop = uvloop.new_event_loop()
    stats = StatsWriter(mmap.mmap(-1, 1 << 20))
    plane = DataPlane(replace(Plane().context, loop=loop, stats=stats))
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    plane.probe(theirs)

    async def ask() -> bytes:
        await loop.sock_sendall(ours, GET)
        return await loop.sock_recv(ours, 65536)

    assert loop.run_until_complete(asyncio.wait_for(ask(), 5)).endswith(b"\r\n\r\nok\n")
    plane.close_all()
    ours.close()
    loop.close()

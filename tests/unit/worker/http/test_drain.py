"""Draining: which responses say ``connection: close``, and what becomes of idle connections."""

from __future__ import annotations

from tests.unit.worker.fakes import FakeLoop
from tests.unit.worker.proxy import GET, OK, Proxy, head_and_body
from workerproxy.worker.http.drain import DrainState


def test_a_gradual_drain_closes_a_share_that_grows_with_time() -> None:
    loop = FakeLoop()
    chances = [0.5]
    state = DrainState(loop.time, lambda: chances[0])
    assert not state.active
    state.start(100, gradual=True)
    assert state.active
    assert not state.close_now()
    loop.now += 49
    assert not state.close_now()
    loop.now += 2
    assert state.close_now()
    chances[0] = 0.99
    assert not state.close_now()
    loop.now += 60
    assert state.close_now()
    state.stop()
    assert not state.active


def test_an_immediate_drain_closes_all() -> None:
    loop = FakeLoop()
    state = DrainState(loop.time, lambda: 0.999)
    state.start(100, gradual=False)
    assert state.close_now()
    assert repr(state) == "<DrainState draining>"
    state.start(0, gradual=True)
    assert state.close_now()


def closes(proxy: Proxy) -> bool:
    client = proxy.client()
    return head_and_body(proxy.exchange(client))[1].get(b"connection") == b"close" and client.got_fin


def test_responses_say_so_as_the_drain_goes_on() -> None:
    proxy = Proxy()
    assert not closes(proxy)
    proxy.drain.start(100, gradual=True)
    assert not closes(proxy)
    proxy.loop.advance(51)
    assert closes(proxy)
    assert proxy.stats.downstream_cx_drain_close == 1
    proxy.drain.stop()
    assert not closes(proxy)


def test_a_listener_that_is_drained_closes_idle_connections_and_lets_busy_ones_finish() -> None:
    proxy = Proxy()
    busy, idle, begun = proxy.client(), proxy.client(("192.0.2.8", 1)), proxy.client(("192.0.2.9", 1))
    busy.send(GET)
    begun.send(GET[:5])
    proxy.listener.start_drain(600, gradual=False)
    assert not idle.got_fin
    proxy.loop.advance(1)
    assert idle.got_fin
    assert not busy.got_fin
    assert not begun.got_fin
    proxy.origin().send(OK)
    assert head_and_body(busy.take())[1][b"connection"] == b"close"
    assert busy.got_fin
    begun.send(GET[5:])
    proxy.origin().send(OK)
    assert head_and_body(begun.take())[1][b"connection"] == b"close"
    for client in (busy, idle, begun):
        client.fin()
    proxy.origin().fin()
    proxy.assert_nothing_left()


def test_a_connection_that_has_just_come_is_left_alone_for_a_second() -> None:
    proxy = Proxy()
    proxy.listener.start_drain(600, gradual=False)
    proxy.loop.advance(0.5)
    late = proxy.client()
    proxy.loop.advance(0.9)
    assert not late.got_fin
    proxy.loop.advance(0.6)
    assert late.got_fin


def test_a_request_that_has_come_unread_is_answered_before_an_idle_connection_closes() -> None:
    proxy = Proxy()
    client = proxy.client()
    proxy.listener.start_drain(600, gradual=False)
    client.queue(GET)  # and the loop has not told of it
    proxy.manager.drain()
    assert not client.got_fin
    proxy.origin().send(OK)
    assert head_and_body(client.take())[1][b"connection"] == b"close"
    assert client.got_fin


def test_a_gradual_drain_leaves_connections_with_a_request_alone() -> None:
    proxy = Proxy()
    busy, idle = proxy.client(), proxy.client(("192.0.2.8", 1))
    busy.send(GET)
    proxy.listener.start_drain(100, gradual=True)
    proxy.loop.advance(100)
    assert idle.got_fin
    assert not busy.got_fin
    assert not any(manager.draining for manager in proxy.listener.connections)


def test_idle_connections_of_a_gradual_drain_are_closed_more_and_more_likely_and_all_at_its_end() -> None:
    loop = FakeLoop()
    chances = [0.5]
    state = DrainState(loop.time, lambda: chances[0])
    state.start(100, gradual=True)
    assert state.left_s() == 100
    assert not state.close_idle_now(1)
    chances[0] = 0.009
    assert state.close_idle_now(1)
    chances[0] = 0.5
    loop.now += 97
    assert not state.close_idle_now(1)
    loop.now += 2
    assert state.close_idle_now(1)
    loop.now += 5
    assert state.left_s() == 0
    assert state.close_idle_now(1)
    state.start(100, gradual=False)
    assert state.close_idle_now(1)


def test_a_drain_that_is_taken_back_closes_no_idle_connection() -> None:
    proxy = Proxy()
    client = proxy.client()
    proxy.listener.start_drain(600, gradual=False)
    proxy.listener.end_drain()
    proxy.loop.advance(60)
    assert not client.got_fin
    assert b"connection" not in head_and_body(proxy.exchange(client))[1]

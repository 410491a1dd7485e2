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
    proxy.listener.drain()
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

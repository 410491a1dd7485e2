"""An HTTP listener: its sockets, what it knows of a connection's addresses, and what becomes of both at its end."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tests.unit.worker.fakes import FakeListeningSocket
from tests.unit.worker.proxy import GET, OK, Proxy, head_and_body


def listening(proxy: Proxy, address: Any = ("10.0.0.1", 80), bind: int = 1, index: int = 0) -> FakeListeningSocket:
    sock = FakeListeningSocket(proxy.network, local=address)
    proxy.listener.add_socket(bind, index, cast(Any, sock))
    return sock


def test_several_sockets_are_accepted_on() -> None:
    proxy = Proxy()
    for index in range(2):
        listening(proxy, index=index).arrive()
    proxy.loop.run()
    assert len(proxy.listener.connections) == 2
    assert proxy.listener.port == 80
    assert proxy.listener.stats.downstream_cx_total == 2
    assert repr(proxy.listener) == "<HttpListener l connections=2>"


@pytest.mark.parametrize("bound", ["10.0.0.1", "0.0.0.0"])
def test_connections_know_their_addresses(bound: str) -> None:
    proxy = Proxy()
    sock = listening(proxy, (bound, 80))
    client = sock.arrive(("198.51.100.4", 6000))
    client.sock.local = ("10.9.9.9", 80)  # what a socket bound to all addresses learns
    client.send(GET)
    proxy.origin().send(OK)
    (info,) = proxy.log.infos
    assert info.downstream_direct_remote_address == "198.51.100.4:6000"
    assert info.downstream_local_address == ("10.9.9.9:80" if bound == "0.0.0.0" else "10.0.0.1:80")


def test_a_second_copy_of_a_socket_is_closed() -> None:
    proxy = Proxy()
    first, second = listening(proxy), listening(proxy)
    assert second.is_closed
    first.arrive()
    proxy.loop.run()
    assert len(proxy.listener.connections) == 1


def test_a_released_socket_is_closed_and_its_queue_left_to_others() -> None:
    proxy = Proxy()
    first, second = listening(proxy, index=0), listening(proxy, index=1)
    first.arrive()
    proxy.listener.release_socket(1, 0)
    proxy.listener.release_socket(1, 7)
    assert first.is_closed
    assert len(first.backlog) == 1
    second.arrive()
    proxy.loop.run()
    assert len(proxy.listener.connections) == 1
    assert proxy.listener.port == 80


def test_a_removed_listener_serves_what_is_queued_and_lets_requests_finish() -> None:
    proxy = Proxy()
    sock = listening(proxy)
    other = listening(proxy, bind=2)
    client = sock.arrive()
    client.send(GET)
    proxy.listener.remove(600, gradual=False)
    queued = sock.arrive(("192.0.2.8", 1))
    proxy.listener.stop_accepting(1)
    assert sock.is_closed
    assert not other.is_closed
    proxy.loop.advance(1)
    assert queued.got_fin  # accepted, and idle
    proxy.origin().send(OK)
    assert head_and_body(client.take())[1][b"connection"] == b"close"
    for peer in (client, queued, proxy.origin()):
        peer.fin()
    proxy.loop.advance(20)
    proxy.listener.close()
    assert other.is_closed
    proxy.assert_nothing_left()


def test_close_cuts_off_whatever_is_going_on() -> None:
    proxy = Proxy()
    clients = [proxy.client(("192.0.2.7", port)) for port in range(3)]
    clients[0].send(GET)
    clients[1].send(GET[:9])
    proxy.listener.close()
    assert all(client.is_closed for client in clients)
    assert proxy.stats.downstream_cx_destroy_local == 3
    assert proxy.stats.downstream_cx_destroy_local_active_rq == 1
    assert proxy.log.infos[0].response_code_details == "downstream_local_disconnect"
    proxy.assert_nothing_left()


def test_a_reload_is_for_new_streams_and_every_connection() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.send(GET)
    proxy.listener.config = proxy.make_config({}, [{"match": {"prefix": "/"}, "direct_response": {"status": 299}}])
    proxy.origin().send(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ")
    client.send(GET)
    assert client.take().startswith(b"HTTP/1.1 299 ")


def test_responses_are_counted_by_class_when_asked_for() -> None:
    routes = [
        {"match": {"path": f"/{status}"}, "direct_response": {"status": status}} for status in (204, 302, 404, 503)
    ]
    proxy = Proxy(routes=routes)
    client = proxy.client()
    for status in (204, 302, 404, 404, 503):
        client.send(b"GET /%d HTTP/1.1\r\nhost: h\r\n\r\n" % status)
    for stats in (proxy.stats, proxy.listener.http_stats):
        assert stats.downstream_rq_completed == 0
    proxy.listener.collect_stats()
    proxy.listener.collect_stats()
    for stats in (proxy.stats, proxy.listener.http_stats):
        assert stats.downstream_rq_completed == 5
        assert (stats.downstream_rq_2xx, stats.downstream_rq_3xx) == (1, 1)
        assert (stats.downstream_rq_4xx, stats.downstream_rq_5xx) == (2, 1)

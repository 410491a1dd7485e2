"""A slow reader stops who sends to it, in both directions; nothing is buffered without a limit."""

from __future__ import annotations

import pytest

from tests.unit.worker.proxy import GET, OK, ORIGIN, Proxy, head_and_body

SMALL = {"per_connection_buffer_limit_bytes": 1000}
BIG = b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n"


def test_a_client_that_does_not_read_stops_its_origin() -> None:
    proxy = Proxy(listener=SMALL)
    client = proxy.client(window=0)
    client.send(GET)
    proxy.origin().send(BIG + b"x" * 2000, b"y" * 3000)
    assert len(proxy.origin().sock.incoming) == 1
    assert proxy.cluster.stats.upstream_flow_control_paused_reading_total == 1
    client.open_window(None)
    assert head_and_body(client.take())[2] == b"x" * 2000 + b"y" * 3000
    assert proxy.cluster.stats.upstream_flow_control_resumed_reading_total == 1
    assert proxy.exchange(client).endswith(b"ok")
    assert len(proxy.network.upstream) == 1
    client.fin()
    proxy.origin().fin()
    proxy.assert_nothing_left()


def test_an_origin_that_does_not_read_stops_its_client() -> None:
    proxy = Proxy(cluster=SMALL)
    proxy.network.origin_window = 1
    client = proxy.client()
    client.send(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5000\r\n\r\n" + b"x" * 2000)
    assert proxy.stats.downstream_flow_control_paused_reading_total == 1
    client.send(b"y" * 3000)
    assert len(client.sock.incoming) == 1
    proxy.origin().open_window(None)
    assert head_and_body(proxy.origin().take())[2] == b"x" * 2000 + b"y" * 3000
    assert proxy.stats.downstream_flow_control_resumed_reading_total == 1
    proxy.origin().send(OK)
    assert client.take().endswith(b"ok")
    client.fin()
    proxy.origin().fin()
    proxy.assert_nothing_left()


def test_a_body_that_waits_for_a_connection_stops_its_client() -> None:
    proxy = Proxy(listener=SMALL)
    proxy.network.silent.add(ORIGIN)
    client = proxy.client()
    client.send(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5000\r\n\r\n" + b"x" * 2000)
    assert proxy.stats.downstream_flow_control_paused_reading_total == 1
    client.send(b"y" * 3000)
    assert len(client.sock.incoming) == 1
    proxy.network.let_connect(proxy.network.upstream[0])
    proxy.loop.run()
    assert head_and_body(proxy.origin().take())[2] == b"x" * 2000 + b"y" * 3000


@pytest.mark.parametrize("ending", ["connect timeout", "client", "reply"])
def test_a_client_that_was_stopped_goes_on_when_its_request_is_over(ending: str) -> None:
    proxy = Proxy(listener=SMALL)
    proxy.network.silent.add(ORIGIN)
    client = proxy.client()
    client.send(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5000\r\n\r\n" + b"x" * 2000)
    if ending == "connect timeout":
        proxy.loop.advance(6)
        assert client.take().startswith(b"HTTP/1.1 503")
    elif ending == "client":
        proxy.manager.on_peer_gone()
    else:
        proxy.manager.on_stream_duration()
        assert client.take().startswith(b"HTTP/1.1 408")
    proxy.loop.advance(10)
    client.fin()
    assert client.is_closed
    proxy.assert_nothing_left()


def test_a_client_that_sends_requests_and_reads_no_response_is_not_read_on() -> None:
    """A regression: its responses were buffered without a limit."""
    proxy = Proxy(
        listener=SMALL,
        routes=[{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "x" * 600}}}],
    )
    client = proxy.client(window=0)
    client.send(GET * 10)
    for _ in range(100):
        client.queue(GET * 10)
    proxy.loop.run()
    assert proxy.manager.connection.out_size < 3000
    assert len(client.sock.incoming) > 90
    client.open_window(None)
    assert client.take().count(b"HTTP/1.1 200 OK") == 1010
    client.fin()
    proxy.assert_nothing_left()


def test_the_next_response_to_a_slow_client_stops_its_origin_too() -> None:
    """A regression: a stream that began while the buffer was full was resumed without having been stopped."""
    proxy = Proxy(listener=SMALL)
    client = proxy.client(window=0)
    client.send(GET + GET)
    proxy.origin().take()
    proxy.origin().send(BIG + b"x" * 5000)
    client.open_window(4800)
    assert 0 < proxy.manager.connection.out_size < 500
    proxy.origin().send(BIG + b"y" * 2000, b"y" * 2000, b"y" * 1000)
    assert proxy.manager.connection.out_size < 5000
    client.open_window(None)
    got = client.take()
    assert got.count(b"y" * 5000) == 1
    assert proxy.exchange(client).endswith(b"ok")
    client.fin()
    for peer in proxy.network.origins():
        peer.fin()
    proxy.assert_nothing_left()


def test_an_informational_response_that_fills_the_buffer_does_not_stop_the_connection_for_good() -> None:
    """A regression: the upstream connection went back to the pool with its reading disabled."""
    proxy = Proxy(listener={"per_connection_buffer_limit_bytes": 50}, hcm={"proxy_100_continue": True})
    client = proxy.client(window=0)
    client.send(GET)
    proxy.origin().send(b"HTTP/1.1 103 Early Hints\r\nlink: " + b"x" * 100 + b"\r\n\r\n" + OK)
    client.open_window(None)
    assert client.take().endswith(b"ok")
    client.send(GET)
    proxy.origin().send(OK)
    assert client.take().endswith(b"ok")

"""The life of one request, as a play: what the client sends, what the origin receives, what comes back."""

from __future__ import annotations

from tests.unit.worker.proxy import GET, OK, Proxy, head_and_body


def test_a_request_goes_up_and_its_response_comes_down() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.send(b"GET /a?b HTTP/1.1\r\nHost: h\r\nX-One: 1\r\n\r\n")
    first, fields, body = head_and_body(proxy.origin().take())
    assert first == b"GET /a?b HTTP/1.1"
    assert fields.pop(b"x-request-id")
    assert fields == {b"host": b"h", b"x-one": b"1", b"x-forwarded-proto": b"http"}
    assert body == b""
    proxy.origin().send(OK)
    first, fields, body = head_and_body(client.take())
    assert first == b"HTTP/1.1 200 OK"
    assert fields == {
        b"content-length": b"2",
        b"date": b"Thu, 01 Jan 1970 00:00:00 GMT",
        b"server": b"envoy",
        b"x-envoy-upstream-service-time": b"0",
    }
    assert body == b"ok"
    client.fin()
    proxy.origin().fin()
    proxy.assert_nothing_left()


def test_the_next_request_uses_both_connections_again() -> None:
    proxy = Proxy()
    client = proxy.client()
    for _ in range(3):
        assert proxy.exchange(client).endswith(b"ok")
    assert len(proxy.network.upstream) == 1


def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.send(b"GET /1 HTTP/1.1\r\nhost: h\r\n\r\nGET /2 HTTP/1.1\r\nhost: h\r\n\r\n" + b"GET /3 HTTP/1.1\r\n")
    for path in (b"/1", b"/2", b"/3"):
        assert head_and_body(proxy.origin().take())[0] == b"GET %b HTTP/1.1" % path
        if path == b"/1":
            client.send(b"host: h\r\n\r\n")
        proxy.origin().send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n" + path)
        assert client.take().endswith(path)
    assert len(proxy.network.upstream) == 1


def test_one_request_after_the_other() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.send(GET)
    assert proxy.stats.downstream_rq_active == 1
    proxy.origin().send(OK)
    assert proxy.stats.downstream_rq_active == 0

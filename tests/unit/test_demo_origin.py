"""The demo origin, over real sockets: what each path answers, and that framing holds whatever the client does."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.support.client import RawClient
from tests.support.ports import free_port
from tests.support.processes import Process
from workerproxy.demo_origin import MAX_HEAD_BYTES, DemoOrigin, Request, answer


@pytest.fixture(scope="module")
def ports() -> Iterator[list[int]]:
    """Ports of a demo origin that runs in a thread of this process."""
    origin = DemoOrigin(ports=(0, 0))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(origin.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield origin.ports
    asyncio.run_coroutine_threadsafe(origin.stop(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


@pytest.fixture
def client(ports: list[int]) -> Iterator[RawClient]:
    with RawClient(ports[0]) as client:
        yield client


def ask(client: RawClient, path: str, method: str = "GET", headers: str = "", body: bytes = b"") -> tuple[bytes, bytes]:
    """Head and body of one more response on this connection."""
    start = len(client.received)
    client.send(f"{method} {path} HTTP/1.1\r\nhost: demo\r\n{headers}\r\n".encode() + body)
    assert client.read_response(head=method == "HEAD"), client.received[start:]
    head, _, content = client.received[start:].partition(b"\r\n\r\n")
    return head, content


def test_each_port_says_which_endpoint_served(ports: list[int]) -> None:
    for number, port in enumerate(ports, start=1):
        with RawClient(port) as client:
            head, body = ask(client, "/anything?x=1")
            assert f"x-demo-endpoint: {number}".encode() in head
            assert body == f"endpoint {number} answers GET /anything?x=1\n".encode()


def test_headers_come_back_as_json_with_repeated_ones_joined(client: RawClient) -> None:
    _, body = ask(client, "/headers", headers="X-One: 1\r\nx-two: a\r\nX-Two: b\r\n")
    value = json.loads(body)
    assert value["endpoint"] == "1"
    assert value["headers"] == {"host": "demo", "x-one": "1", "x-two": "a, b"}


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3_000_000])
def test_bytes_gives_exactly_that_many(client: RawClient, size: int) -> None:
    head, body = ask(client, f"/bytes/{size}")
    assert f"content-length: {size}".encode() in head
    assert len(body) == size


def test_stream_is_chunked_and_the_connection_goes_on(client: RawClient) -> None:
    head, body = ask(client, "/stream/3/0")
    assert b"transfer-encoding: chunked" in head
    assert body.endswith(b"line 3 of 3 from endpoint 1\n\r\n0\r\n\r\n")
    assert ask(client, "/")[1] == b"endpoint 1 answers GET /\n"


def test_delay_answers_after_the_time(client: RawClient) -> None:
    assert ask(client, "/delay/5")[1] == b"endpoint 1 waited 5 ms\n"


def test_upload_counts_the_body_of_either_framing(client: RawClient) -> None:
    _, body = ask(client, "/upload", "POST", "content-length: 100000\r\n", b"x" * 100_000)
    assert json.loads(body) == {"endpoint": "1", "bytes": 100_000}
    chunked = b"3\r\nabc\r\n4\r\ndefg\r\n0\r\nx-trailer: 1\r\n\r\n"
    _, body = ask(client, "/upload", "POST", "transfer-encoding: chunked\r\n", chunked)
    assert json.loads(body)["bytes"] == 7


def test_expect_100_continue_is_answered_before_the_body(client: RawClient) -> None:
    client.send(b"POST /upload HTTP/1.1\r\nhost: demo\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
    assert client.read_text(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.send(b"ab")
    assert client.read_text(b'"bytes": 2')


@pytest.mark.parametrize("code", [200, 204, 304, 404, 599])
def test_status_gives_that_status_and_the_connection_goes_on(client: RawClient, code: int) -> None:
    head, body = ask(client, f"/status/{code}")
    assert head.startswith(f"HTTP/1.1 {code} ".encode())
    assert (body == b"") == (code in (204, 304))
    assert ask(client, "/")[0].startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("path", ["/bytes/200000", "/stream/2/0", "/delay/1", "/"])
def test_head_has_no_body_and_the_connection_goes_on(client: RawClient, path: str) -> None:
    _, body = ask(client, path, "HEAD")
    assert body == b""
    assert ask(client, "/")[1] == b"endpoint 1 answers GET /\n"


@pytest.mark.parametrize(
    "path",
    ["/bytes/", "/bytes/-1", "/bytes/1e3", "/bytes/99999999999999999999", "/status/100", "/delay/x", "/stream/1/x"],
)
def test_a_number_out_of_bounds_is_a_400_that_says_what_is_expected(path: str) -> None:
    reply = answer(Request(method="GET", target=path), "1")
    assert reply.status == 400
    assert isinstance(reply.body, bytes)
    assert b"expected a number from" in reply.body


def test_pipelined_requests_are_answered_in_order_around_a_slow_one(client: RawClient) -> None:
    client.send(b"".join(b"GET %b HTTP/1.1\r\nhost: demo\r\n\r\n" % path for path in (b"/a", b"/delay/20", b"/b")))
    for text in (b"GET /a\n", b"waited 20 ms\n", b"GET /b\n"):
        assert client.read_text(text)


def test_http_1_0_streams_until_close(client: RawClient) -> None:
    client.send(b"GET /stream/2/0 HTTP/1.0\r\n\r\n")
    assert client.read_to_close()
    assert b"chunked" not in client.received
    assert client.received.endswith(b"\r\n\r\nline 1 of 2 from endpoint 1\nline 2 of 2 from endpoint 1\n")


def test_connection_close_is_obeyed(client: RawClient) -> None:
    client.send(b"GET / HTTP/1.1\r\nhost: demo\r\nconnection: close\r\n\r\n")
    assert client.read_to_close()
    assert client.end == "eof"
    assert b"connection: close" in client.received


def test_an_upgrade_request_is_answered_like_any_other(client: RawClient) -> None:
    client.send(b"GET / HTTP/1.1\r\nhost: demo\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    assert client.read_to_close()
    assert client.received.startswith(b"HTTP/1.1 200 OK")


def test_garbage_is_a_400_and_a_close(client: RawClient) -> None:
    client.send(b"nonsense\r\n\r\n")
    assert client.read_to_close()
    assert client.received.startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_endless_headers_are_a_431_and_a_close(client: RawClient) -> None:
    client.send(b"GET / HTTP/1.1\r\n")
    client.send(b"x-fill: " + b"x" * (MAX_HEAD_BYTES + 1))
    assert client.read_to_close()
    assert client.received.startswith(b"HTTP/1.1 431 ")


def test_a_client_that_leaves_in_the_middle_harms_nobody(ports: list[int], client: RawClient) -> None:
    with RawClient(ports[0], receive_buffer=4096) as leaver:
        leaver.send(b"GET /bytes/100000000 HTTP/1.1\r\nhost: demo\r\n\r\n")
        assert leaver.read_text(b"content-length: 100000000")
        leaver.reset()
    assert ask(client, "/")[1] == b"endpoint 1 answers GET /\n"


def test_the_program_says_where_it_listens_and_stops_at_sigterm() -> None:
    first, second = free_port(), free_port()
    argv = [sys.executable, "-m", "workerproxy.demo_origin", "--port", str(first), "--port", str(second)]
    with Process(argv) as program:
        program.wait_output(f"ready on http://127.0.0.1:{first} http://127.0.0.1:{second}\n")
        with RawClient(second) as client:
            assert ask(client, "/")[1] == b"endpoint 2 answers GET /\n"
        program.signal(signal.SIGTERM)
        assert program.wait() == 0


def test_a_taken_port_is_said_without_a_traceback(ports: list[int]) -> None:
    argv = [sys.executable, "-m", "workerproxy.demo_origin", "--port", str(ports[0])]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("demo origin: ")
    assert "Traceback" not in done.stderr

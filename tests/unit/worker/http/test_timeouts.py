"""Every timeout of a stream and of a downstream connection: when it begins, what restarts it, what the client gets."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.worker.fakes import Peer
from tests.unit.worker.proxy import GET, OK, Proxy, head_and_body
from workerproxy.http import outcome

POST = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\n"


def routes(**action: Any) -> list[dict[str, Any]]:
    return [{"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s", **action}}]


def status(data: bytes) -> bytes:
    return data.split(b" ", 2)[1] if data else b""


class Play:
    def __init__(self, **options: Any) -> None:
        self.proxy = Proxy(**options)
        self.client: Peer = self.proxy.client()

    def wait(self, seconds: float) -> bytes:
        self.proxy.loop.advance(seconds)
        return self.client.take()

    def end(self) -> None:
        self.client.fin()
        for peer in self.proxy.network.origins():
            peer.fin()
        self.proxy.assert_nothing_left()

    @property
    def details(self) -> str:
        return self.proxy.log.infos[-1].response_code_details


# the route's timeout


def test_the_route_timeout_runs_from_the_requests_last_byte() -> None:
    play = Play(routes=routes(timeout="10s"))
    play.client.send(POST, b"ab")
    assert play.wait(20) == b""
    play.client.send(b"cd")
    assert play.wait(9.9) == b""
    assert status(play.wait(0.2)) == b"504"
    assert play.details == "response_timeout"
    assert play.proxy.log.infos[0].response_flags == outcome.UT
    assert play.proxy.cluster.stats.upstream_rq_timeout == 1
    assert play.proxy.cluster.hosts[0].rq_timeout == 1
    assert play.proxy.origin().is_closed
    play.end()


def test_the_route_timeout_covers_the_whole_response() -> None:
    play = Play(routes=routes(timeout="10s"))
    play.client.send(GET)
    play.proxy.origin().send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab")
    assert play.wait(9).endswith(b"ab")
    assert play.wait(2) == b""
    assert play.client.got_fin
    assert play.details == "response_timeout"
    play.wait(2)
    play.end()


def test_a_response_in_time_ends_the_route_timeout() -> None:
    play = Play(routes=routes(timeout="10s"))
    assert play.proxy.exchange(play.client).endswith(b"ok")
    assert play.wait(60) == b""
    assert not play.client.is_closed
    play.end()


# the stream's idle timeout


def test_the_stream_idle_timeout_restarts_with_every_piece() -> None:
    play = Play(hcm={"stream_idle_timeout": "10s"})
    play.client.send(POST)
    assert play.wait(9) == b""
    play.client.send(b"ab")
    assert play.wait(9) == b""
    play.client.send(b"cd")
    assert play.wait(9) == b""
    play.proxy.origin().send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
    assert status(play.wait(9)) == b"200"
    play.proxy.origin().send(b"ab")
    assert play.wait(9) == b"ab"
    assert play.wait(2) == b""
    assert play.client.got_fin
    assert play.details == "stream_idle_timeout"
    assert play.proxy.stats.downstream_rq_idle_timeout == 1
    play.wait(2)
    play.end()


@pytest.mark.parametrize(("sent", "expected"), [(POST, b"408"), (POST + b"abcd", b"504")])
def test_an_idle_stream_is_answered_by_whose_fault_it_is(sent: bytes, expected: bytes) -> None:
    play = Play(hcm={"stream_idle_timeout": "10s"})
    play.client.send(sent)
    got = play.wait(11)
    assert status(got) == expected
    assert got.endswith(b"stream timeout")
    play.wait(2)
    play.end()


def test_the_routes_idle_timeout_replaces_the_connection_managers() -> None:
    """A regression: below a longer route timeout it did not run while the response was waited for."""
    play = Play(routes=routes(timeout="15s", idle_timeout="5s"))
    play.client.send(GET)
    assert status(play.wait(5.1)) == b"504"
    assert play.details == "stream_idle_timeout"
    play.end()


def test_without_any_timeout_a_stream_waits_for_ever() -> None:
    play = Play(hcm={"stream_idle_timeout": "0s"})
    play.client.send(GET)
    assert play.wait(100_000) == b""
    play.proxy.origin().send(OK)
    assert play.client.take().endswith(b"ok")
    play.end()


@pytest.mark.parametrize("header", ["x-envoy-upstream-rq-timeout-ms"])
def test_a_caller_that_switches_the_route_timeout_off_is_still_bounded_by_the_idle_timeout(header: str) -> None:
    """A regression: the idle timeout was not started, in the belief that the route's would come first."""
    internal = {"cidr_ranges": [{"address_prefix": "192.0.2.0", "prefix_len": 24}]}
    play = Play(
        routes=routes(timeout="15s"),
        hcm={"stream_idle_timeout": "100s", "use_remote_address": True, "internal_address_config": internal},
    )
    play.client.send(b"GET / HTTP/1.1\r\nhost: h\r\n" + header.encode() + b": 0\r\n\r\n")
    assert play.wait(99) == b""
    assert status(play.wait(2)) == b"504"
    play.end()


# the head's and the request's timeout


def test_a_head_that_takes_too_long() -> None:
    play = Play(hcm={"request_headers_timeout": "5s"})
    assert play.wait(20) == b""  # nothing has begun
    play.client.send(b"GET / HT")
    assert play.wait(4) == b""
    play.client.send(b"TP/1.1\r\n")
    got = play.wait(1.1)
    assert status(got) == b"408"
    assert play.details == "request_header_timeout"
    assert play.proxy.stats.downstream_rq_header_timeout == 1
    play.wait(2)
    play.end()


def test_a_head_in_time_ends_its_timeout() -> None:
    play = Play(hcm={"request_headers_timeout": "5s"})
    play.client.send(GET[:10])
    play.wait(4)
    play.client.send(GET[10:])
    assert play.wait(60) == b""
    play.proxy.origin().send(OK)
    assert status(play.client.take()) == b"200"
    play.end()


@pytest.mark.parametrize("cut", [10, len(POST), len(POST) + 2])
def test_a_request_that_takes_too_long(cut: int) -> None:
    play = Play(hcm={"request_timeout": "5s"})
    whole = POST + b"abcd"
    play.client.send(whole[:cut])
    assert play.wait(4.9) == b""
    assert status(play.wait(0.2)) == b"408"
    assert play.details == "request_overall_timeout"
    assert play.proxy.stats.downstream_rq_timeout == 1
    play.wait(2)
    play.end()


def test_the_request_timeout_runs_from_the_first_byte() -> None:
    """A regression: it began anew when the head was complete."""
    play = Play(hcm={"request_timeout": "5s"})
    play.client.send(POST[:10])
    play.wait(4)
    play.client.send(POST[10:])
    assert status(play.wait(1.1)) == b"408"


@pytest.mark.parametrize("cut", [10, len(POST), len(POST) + 2])
def test_a_request_in_time_ends_its_timeout(cut: int) -> None:
    """A regression: with the head in two reads and no body still to come it went on, into the response."""
    play = Play(hcm={"request_timeout": "5s"})
    whole = POST + b"abcd"
    play.client.send(whole[:cut], whole[cut:])
    assert play.wait(60) == b""
    play.proxy.origin().send(OK)
    assert status(play.client.take()) == b"200"
    assert play.proxy.stats.downstream_rq_timeout == 0
    play.end()


def test_a_client_that_leaves_in_its_head_leaves_no_timeout() -> None:
    play = Play(hcm={"request_timeout": "5s", "request_headers_timeout": "5s"})
    play.client.send(GET[:10])
    play.end()
    play.wait(10)
    assert play.proxy.stats.downstream_rq_timeout == play.proxy.stats.downstream_rq_header_timeout == 0


def test_a_reload_in_the_middle_of_a_head_leaves_no_timeout() -> None:
    """A regression: the timeout of the new configuration was started, and that of the old one cancelled."""
    play = Play(hcm={"request_headers_timeout": "5s", "request_timeout": "6s"})
    assert status(play.proxy.exchange(play.client)) == b"200"
    play.proxy.listener.config = play.proxy.make_config(
        {"request_headers_timeout": "7s", "request_timeout": "8s", "stream_idle_timeout": "9s"}
    )
    play.client.send(GET[:10], GET[10:])
    play.proxy.origin().send(OK)
    assert status(play.client.take()) == b"200"
    play.wait(20)
    assert play.proxy.stats.downstream_rq_header_timeout == 0
    play.end()


# durations


@pytest.mark.parametrize(("sent", "expected"), [(POST, b"408"), (GET, b"504")])
def test_a_stream_that_lives_too_long(sent: bytes, expected: bytes) -> None:
    play = Play(hcm={"common_http_protocol_options": {"max_stream_duration": "10s"}})
    play.client.send(sent)
    assert play.wait(9.9) == b""
    assert status(play.wait(0.2)) == expected
    assert play.details == "max_duration_timeout"
    play.wait(2)
    play.end()


def test_the_bound_on_one_stream_is_not_the_next_ones() -> None:
    play = Play(hcm={"common_http_protocol_options": {"max_stream_duration": "10s"}})
    for _ in range(4):
        assert status(play.proxy.exchange(play.client)) == b"200"
        assert play.wait(6) == b""
    play.end()


def test_a_response_that_lives_too_long_upstream() -> None:
    play = Play(cluster={"common_http_protocol_options": {"max_stream_duration": "10s"}})
    play.client.send(GET)
    assert status(play.wait(10.1)) == b"504"
    assert play.details == "upstream_max_stream_duration_reached"
    assert play.proxy.cluster.stats.upstream_rq_max_duration_reached == 1
    play.end()


# the connection


def test_a_connection_that_was_never_used_closes_when_idle() -> None:
    play = Play(hcm={"common_http_protocol_options": {"idle_timeout": "10s"}, "drain_timeout": "1s"})
    play.wait(9.9)
    assert not play.client.got_fin
    play.wait(1.2)
    assert play.client.got_fin
    assert play.proxy.stats.downstream_cx_idle_timeout == 1
    play.wait(2)
    play.end()


def test_the_idle_time_of_a_connection_runs_from_its_last_stream() -> None:
    play = Play(hcm={"common_http_protocol_options": {"idle_timeout": "10s"}, "drain_timeout": "1s"})
    play.wait(6)
    play.proxy.exchange(play.client)
    play.wait(6)
    assert not play.client.got_fin
    play.client.send(GET)
    play.wait(60)  # a running stream is not idle
    play.proxy.origin().send(OK)
    assert status(play.client.take()) == b"200"
    play.wait(9)
    assert not play.client.got_fin
    play.wait(61)
    assert play.client.got_fin
    play.wait(2)
    play.end()


def test_an_idle_timeout_that_a_reload_switches_off_closes_nothing_any_more() -> None:
    """A regression: the connection was closed when the old time was over."""
    play = Play(hcm={"common_http_protocol_options": {"idle_timeout": "10s"}})
    listener = play.proxy.listener
    config = play.proxy.make_config({"common_http_protocol_options": {"idle_timeout": "0s"}})
    listener.renew(config, listener.stats, listener.worker_stats, listener.http_stats)
    play.wait(100)
    assert not play.client.got_fin
    play.end()


def test_a_connection_that_is_gone_does_not_become_idle() -> None:
    """A regression after a reload that changed the idle timeout: it was counted as closed once more."""
    play = Play(hcm={"common_http_protocol_options": {"idle_timeout": "10s", "max_connection_duration": "10s"}})
    options = {"idle_timeout": "20s", "max_connection_duration": "20s"}
    play.proxy.listener.config = play.proxy.make_config({"common_http_protocol_options": options})
    play.proxy.exchange(play.client)
    play.end()
    play.wait(60)
    assert play.proxy.stats.downstream_cx_idle_timeout == 0
    assert play.proxy.stats.downstream_cx_max_duration_reached == 0


def test_a_connection_may_not_grow_older_than_its_time() -> None:
    play = Play(hcm={"common_http_protocol_options": {"max_connection_duration": "10s"}, "drain_timeout": "5s"})
    play.client.send(GET)
    play.wait(11)
    play.proxy.origin().send(OK)
    _, fields, _ = head_and_body(play.client.take())
    assert fields[b"connection"] == b"close"
    assert play.client.got_fin
    assert play.proxy.stats.downstream_cx_max_duration_reached == 1
    play.wait(6)
    play.end()


def test_a_client_that_reads_nothing_of_its_last_response_is_cut_off() -> None:
    """A regression: a response after which the connection closes had no limit of time."""
    play = Play()
    play.client.window = 0
    play.client.send(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
    play.proxy.origin().send(OK)
    assert not play.client.is_closed
    play.wait(1.1)
    assert play.client.is_closed
    play.end()

"""Every way a request ends: what the client gets, what the log says, what becomes of both connections."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.worker.fakes import Peer
from tests.unit.worker.proxy import GET, OK, ORIGIN, Proxy, head_and_body
from workerproxy.http import outcome

POST = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\n"


class Play:
    def __init__(self, **options: Any) -> None:
        self.proxy = Proxy(**options)
        self.client: Peer = self.proxy.client()

    def end(self) -> None:
        self.proxy.loop.advance(2)
        self.client.fin()
        for peer in self.proxy.network.origins():
            peer.fin()
        self.proxy.assert_nothing_left()

    @property
    def log(self) -> Any:
        return self.proxy.log.infos[-1]

    def logged(self) -> tuple[int, str, str]:
        info = self.log
        return info.response_code, info.response_code_details, outcome.flags_text(info.response_flags)


# before a host is chosen


def test_no_route() -> None:
    play = Play(routes=[{"match": {"path": "/only"}, "route": {"cluster": "origin"}}])
    play.client.send(GET)
    assert play.client.take().startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert play.logged() == (404, "route_not_found", "NR")
    assert play.proxy.router_stats.no_route == 1
    assert not play.client.got_fin
    play.end()


def test_no_such_cluster() -> None:
    play = Play(routes=[{"match": {"prefix": "/"}, "route": {"cluster": "gone"}}])
    play.client.send(GET)
    assert play.client.take().startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert play.logged() == (503, "cluster_not_found", "NC")
    play.end()


def test_no_host() -> None:
    play = Play(hosts=[])
    play.client.send(GET)
    assert play.client.take().endswith(b"no healthy upstream")
    assert play.logged() == (503, "no_healthy_upstream", "UH")
    assert play.proxy.cluster.stats.upstream_cx_none_healthy == 1
    play.end()


def test_a_direct_response() -> None:
    direct = {"status": 418, "body": {"inline_string": "short and stout"}}
    play = Play(routes=[{"match": {"prefix": "/"}, "direct_response": direct}])
    play.client.send(GET)
    first, _, body = head_and_body(play.client.take())
    assert (first.split()[1], body) == (b"418", b"short and stout")
    assert play.logged() == (418, "direct_response", "-")
    assert play.log.bytes_sent == len(body)
    play.end()


def test_an_upgrade_is_refused() -> None:
    play = Play()
    play.client.send(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    first, fields, _ = head_and_body(play.client.take())
    assert first == b"HTTP/1.1 403 Forbidden"
    assert fields[b"connection"] == b"close"
    assert play.logged()[1] == "upgrade_failed"
    play.end()


def test_garbage_is_answered_and_the_connection_closed() -> None:
    play = Play()
    play.client.send(b"nonsense\r\n\r\n")
    assert play.client.take().startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert play.client.got_fin
    assert play.log.response_flags == outcome.DPE
    assert play.proxy.stats.downstream_cx_protocol_error == 1
    play.end()


def test_an_old_version_is_told_to_upgrade() -> None:
    play = Play()
    play.client.send(b"GET / HTTP/1.0\r\nhost: h\r\n\r\n")
    assert play.client.take().startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
    assert play.client.got_fin
    play.end()


def test_http_10_is_answered_in_kind_where_it_is_accepted() -> None:
    play = Play(hcm={"http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "d"}})
    play.client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert head_and_body(play.proxy.origin().take())[1][b"host"] == b"d"
    play.proxy.origin().send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    first, fields, body = head_and_body(play.client.take())
    assert first.startswith(b"HTTP/1.0 200")
    assert b"transfer-encoding" not in fields
    assert body == b"ok"
    assert play.client.got_fin
    assert play.log.protocol == "HTTP/1.0"
    play.end()


# the upstream fails


def failed(play: Play, reason: str) -> bytes:
    first, _, body = head_and_body(play.client.take())
    assert body == f"upstream connect error or disconnect/reset before headers. reset reason: {reason}".encode()
    return first.split()[1]


def test_a_refused_connect() -> None:
    play = Play()
    play.proxy.network.refusing.add(ORIGIN)
    play.client.send(GET)
    assert failed(play, "remote connection failure") == b"503"
    details = (
        "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
    )
    assert play.logged() == (503, details, "UF")
    assert play.log.upstream_transport_failure_reason == "delayed connect error: Connection refused"
    assert play.log.upstream_host == "192.0.2.1:8080"
    assert play.proxy.cluster.hosts[0].rq_error == 1
    assert not play.client.got_fin
    play.end()


def test_a_connect_that_takes_too_long() -> None:
    play = Play(cluster={"connect_timeout": "1s"})
    play.proxy.network.silent.add(ORIGIN)
    play.client.send(GET)
    play.proxy.loop.advance(1.1)
    assert failed(play, "connection timeout") == b"503"
    assert play.logged()[1:] == ("upstream_reset_before_response_started{connection_timeout}", "UF")
    play.end()


def test_too_many_requests_wait() -> None:
    play = Play(cluster={"circuit_breakers": {"thresholds": [{"max_pending_requests": 0}]}})
    play.client.send(GET)
    first, fields, _ = head_and_body(play.client.take())
    assert first.startswith(b"HTTP/1.1 503")
    assert fields[b"x-envoy-overloaded"] == b"true"
    assert play.logged()[1:] == ("upstream_reset_before_response_started{overflow}", "UO")
    play.end()


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_an_origin_that_leaves_before_it_answers(how: str) -> None:
    play = Play()
    play.client.send(GET)
    getattr(play.proxy.origin(), how)()
    assert failed(play, "connection termination") == b"503"
    assert play.logged()[1:] == ("upstream_reset_before_response_started{connection_termination}", "UC")
    assert play.proxy.cluster.stats.upstream_cx_destroy_remote_with_active_rq == 1
    assert not play.client.got_fin
    play.end()


def test_an_origin_that_talks_nonsense() -> None:
    play = Play()
    play.client.send(GET)
    play.proxy.origin().send(b"nonsense\r\n\r\n")
    assert failed(play, "protocol error") == b"502"
    assert play.logged()[1:] == ("upstream_reset_before_response_started{protocol_error}", "UPE")
    assert play.proxy.cluster.stats.upstream_cx_protocol_error == 1
    play.end()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
    ],
)
def test_an_origin_that_leaves_in_its_response(head: bytes) -> None:
    play = Play()
    play.client.send(GET)
    play.proxy.origin().send(head)
    play.proxy.origin().fin()
    got = play.client.take()
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert not got.endswith(b"0\r\n\r\n")
    assert play.client.got_fin
    assert play.logged()[0] == 200
    assert play.logged()[1].startswith("upstream_reset_after_response_started{")
    assert play.proxy.stats.downstream_rq_tx_reset == 1
    play.end()


def test_a_response_that_ends_with_its_connection() -> None:
    play = Play()
    play.client.send(GET)
    play.proxy.origin().send(b"HTTP/1.1 200 OK\r\n\r\nab")
    assert head_and_body(play.client.take())[2] == b"2\r\nab\r\n"
    play.proxy.origin().send(b"cd")
    play.proxy.origin().fin()
    assert play.client.take() == b"2\r\ncd\r\n0\r\n\r\n"
    assert play.logged() == (200, "via_upstream", "-")
    assert not play.client.got_fin
    play.end()


def test_a_response_before_the_request_is_complete_closes_both() -> None:
    play = Play()
    play.client.send(POST)
    play.proxy.origin().send(OK)
    _, fields, body = head_and_body(play.client.take())
    assert (fields[b"connection"], body) == (b"close", b"ok")
    assert play.client.got_fin
    assert play.proxy.origin().is_closed
    assert play.proxy.stats.downstream_rq_response_before_rq_complete == 1
    play.end()


def test_the_origin_closes_after_its_response() -> None:
    play = Play()
    play.client.send(GET)
    play.proxy.origin().send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")
    _, fields, body = head_and_body(play.client.take())
    assert b"connection" not in fields
    assert body == b"ok"
    assert play.proxy.origin().is_closed
    play.end()


def test_bytes_behind_a_response_close_the_upstream_connection() -> None:
    play = Play()
    play.client.send(GET)
    play.proxy.origin().send(OK + b"HTTP/1.1 200 OK\r\n")
    assert head_and_body(play.client.take())[2] == b"ok"
    assert play.proxy.origin().is_closed
    play.end()


# the client leaves


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("stage", ["connecting", "waiting", "responding", "uploading"])
def test_a_client_that_leaves(how: str, stage: str) -> None:
    play = Play()
    if stage == "connecting":
        play.proxy.network.silent.add(ORIGIN)
    play.client.send(POST + b"ab" if stage == "uploading" else GET)
    if stage == "responding":
        play.proxy.origin().send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab")
    getattr(play.client, how)()
    assert play.logged()[1:] == ("downstream_remote_disconnect", "DC")
    assert play.proxy.stats.downstream_rq_rx_reset == 1
    assert play.proxy.stats.downstream_cx_destroy_remote_active_rq == 1
    if stage == "connecting":
        assert play.proxy.cluster.stats.upstream_rq_cancelled == 1
        play.proxy.network.let_connect(play.proxy.network.upstream[0])
    else:
        assert play.proxy.origin().is_closed
    play.end()


def test_a_client_that_left_is_noticed_when_it_is_answered() -> None:
    play = Play()
    play.client.send(GET)
    play.client.send_error = BrokenPipeError(32, "Broken pipe")
    play.proxy.origin().send(OK)
    assert play.client.is_closed
    assert play.proxy.stats.downstream_cx_destroy_remote == 1
    play.end()


def test_a_client_that_left_is_noticed_when_it_is_told_to_continue() -> None:
    """A regression: the request went on without its client, into an internal error."""
    play = Play()
    play.client.send_error = BrokenPipeError(32, "Broken pipe")
    play.client.send(b"POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
    assert play.client.is_closed
    assert not play.proxy.network.upstream
    assert play.logged()[1:] == ("downstream_remote_disconnect", "DC")
    play.end()


# how bodies and connections go on


def test_a_client_that_asks_to_continue_is_told_so() -> None:
    play = Play()
    play.client.send(b"POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
    assert play.client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert b"expect" not in head_and_body(play.proxy.origin().take())[1]
    play.client.send(b"abcd")
    assert play.proxy.origin().take() == b"abcd"
    play.proxy.origin().send(OK)
    assert play.client.take().endswith(b"ok")
    play.end()


def test_to_continue_is_the_origins_matter_if_configured() -> None:
    play = Play(hcm={"proxy_100_continue": True})
    play.client.send(b"POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
    assert play.client.take() == b""
    assert head_and_body(play.proxy.origin().take())[1][b"expect"] == b"100-continue"
    play.proxy.origin().send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert play.client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    play.client.send(b"abcd")
    play.proxy.origin().send(OK)
    assert play.client.take().endswith(b"ok")
    play.end()


@pytest.mark.parametrize(
    ("request_head", "framing"),
    [
        (b"POST / HTTP/1.1\r\nhost: h\r\n\r\n", (b"content-length", b"0")),
        (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n", (b"content-length", b"0")),
        (b"DELETE / HTTP/1.1\r\nhost: h\r\n\r\n", None),
        (GET, None),
    ],
)
def test_requests_without_a_body_go_up_as_envoy_sends_them(
    request_head: bytes, framing: tuple[bytes, bytes] | None
) -> None:
    play = Play()
    play.client.send(request_head)
    fields = head_and_body(play.proxy.origin().take())[1]
    assert {(name, value) for name, value in fields.items() if name in (b"content-length", b"transfer-encoding")} == (
        {framing} if framing else set()
    )


def test_the_answer_to_head_has_no_body_and_keeps_the_connection() -> None:
    play = Play()
    play.client.send(b"HEAD / HTTP/1.1\r\nhost: h\r\n\r\n")
    play.proxy.origin().send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
    _, fields, body = head_and_body(play.client.take())
    assert (fields[b"content-length"], body) == (b"5", b"")
    assert play.proxy.exchange(play.client).endswith(b"ok")
    assert len(play.proxy.network.upstream) == 1
    play.end()


@pytest.mark.parametrize("request_head", [b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"])
def test_a_client_that_wants_to_close_is_obeyed(request_head: bytes) -> None:
    play = Play()
    play.client.send(request_head)
    play.proxy.origin().send(OK)
    assert head_and_body(play.client.take())[1][b"connection"] == b"close"
    assert play.client.got_fin
    assert not play.proxy.origin().is_closed
    play.end()


def test_a_connection_carries_no_more_requests_than_it_may() -> None:
    play = Play(hcm={"common_http_protocol_options": {"max_requests_per_connection": 2}})
    assert b"connection" not in head_and_body(play.proxy.exchange(play.client))[1]
    assert head_and_body(play.proxy.exchange(play.client))[1][b"connection"] == b"close"
    assert play.client.got_fin
    assert play.proxy.stats.downstream_cx_max_requests_reached == 1
    play.end()


def test_what_an_origin_was_sent_and_answered_is_counted() -> None:
    play = Play()
    play.client.send(POST + b"abcd")
    play.proxy.origin().send(OK)
    info = play.log
    assert (info.bytes_received, info.bytes_sent) == (4, 2)
    assert info.upstream_host == "192.0.2.1:8080"
    assert info.upstream_cluster == "origin"
    assert info.upstream_connection_id == 1
    assert info.downstream_remote_address == "192.0.2.7:5000"
    assert info.downstream_local_address == "10.0.0.1:80"
    assert play.proxy.cluster.hosts[0].rq_success == 1
    play.proxy.cluster.collect_stats()
    play.proxy.listener.collect_stats()
    stats = play.proxy.stats
    assert (stats.downstream_rq_completed, stats.downstream_rq_2xx) == (1, 1)
    assert stats.downstream_cx_rx_bytes_total == len(POST) + 4
    play.end()


def test_streams_and_connections_say_what_they_are_doing() -> None:
    play = Play()
    play.client.send(GET)
    assert "<ActiveStream GET / waiting <Router <UpstreamRequest 192.0.2.1:8080 <ActiveClient" in repr(
        play.proxy.manager
    )
    stream = play.proxy.manager.stream
    play.proxy.origin().send(OK)
    assert repr(stream) == "<ActiveStream GET / done destroyed>"

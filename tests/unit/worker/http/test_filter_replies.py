"""Answers a filter gives itself, from every hook; the end of a stream as filters see it; their faults."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.unit.worker.http.filters import Probe, Stage
from tests.unit.worker.http.test_filter_iteration import CHUNKED, CHUNKED_RESPONSE, WITH_TRAILERS
from tests.unit.worker.proxy import GET, OK, head_and_body
from workerproxy.extensions.base import CONTINUE, STOP_ALL_AND_BUFFER, STOP_AND_BUFFER, STOP_ITERATION
from workerproxy.http import outcome
from workerproxy.http.headers import RequestHeaders, ResponseHeaders

REQUEST = CHUNKED + b"2\r\nab\r\n0\r\nt: 1\r\n\r\n"
RESPONSE = CHUNKED_RESPONSE + b"2\r\ncd\r\n0\r\nu: 2\r\n\r\n"
HOOKS = [
    "decode_headers",
    "decode_data",
    "decode_trailers",
    "encode_headers",
    "encode_data",
    "encode_trailers",
]


def reply(probe: Probe, *arguments: object) -> int:
    probe.callbacks.send_local_reply(403, b"no", [(b"x-why", b"because")], "denied", outcome.UAEX)
    return STOP_ITERATION


def play(stage: Stage) -> bytes:
    """A request with body and trailers, answered likewise if it comes so far; gives what the client got."""
    stage.client.send(REQUEST)
    if stage.reached_origin and not stage.origin.is_closed:
        stage.origin.send(RESPONSE)
    return stage.client.take()


@pytest.mark.parametrize("hook", ["decode_headers", "decode_data", "decode_trailers", "encode_headers"])
def test_a_filter_may_answer_from_every_hook_before_the_response_began(hook: str) -> None:
    stage = Stage(WITH_TRAILERS, a={}, b={hook: reply}, c={})
    first, fields, body = head_and_body(play(stage))
    assert first == b"HTTP/1.1 403 Forbidden"
    assert fields[b"x-why"] == b"because"
    assert fields[b"content-type"] == b"text/plain"
    assert body == b"no"
    (info,) = stage.proxy.log.infos
    assert (info.response_code, info.response_code_details, info.response_flags) == (403, "denied", outcome.UAEX)
    calls = stage.take_calls()
    assert [call for call in calls if "destroy" in call] == ["a.on_destroy", "b.on_destroy", "c.on_destroy"]
    assert len([call for call in calls if call.startswith(f"b.{hook}") and not call.endswith((" 403", " no end"))]) == 1
    stage.proxy.loop.advance(2)
    stage.close()


@pytest.mark.parametrize("hook", ["encode_data", "encode_trailers"])
def test_an_answer_after_the_response_began_cuts_it_off(hook: str) -> None:
    stage = Stage(WITH_TRAILERS, a={hook: reply})
    got = play(stage)
    assert got.startswith(b"HTTP/1.1 200 OK")
    assert not got.endswith(b"0\r\n\r\n")
    assert stage.client.got_fin
    assert stage.proxy.log.infos[0].response_flags & outcome.UAEX
    assert stage.proxy.stats.downstream_rq_tx_reset == 1
    stage.proxy.loop.advance(2)
    stage.close()


def test_an_answer_while_the_response_waits_at_the_filter() -> None:
    stage = Stage(a={"encode_headers": STOP_ITERATION, "encode_data": STOP_AND_BUFFER})
    stage.client.send(GET)
    stage.origin.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab")
    stage["a"].callbacks.send_local_reply(502, b"bad")
    assert head_and_body(stage.client.take())[0::2] == (b"HTTP/1.1 502 Bad Gateway", b"bad")
    assert stage.origin.is_closed
    stage.close()


def test_an_answer_passes_the_response_filters_of_all() -> None:
    def mark(probe: Probe, headers: ResponseHeaders, end_stream: bool) -> None:
        headers.add(b"x-passed", probe.name.encode())

    stage = Stage(a={"encode_headers": mark}, b={"decode_headers": reply}, c={"encode_headers": mark})
    stage.client.send(GET)
    assert head_and_body(stage.client.take())[1][b"x-passed"] == b"c|a"
    assert stage.take_calls() == [
        "a.decode_headers end",
        "b.decode_headers end",
        "c.encode_headers 403",
        "b.encode_headers 403",
        "a.encode_headers 403",
        "c.encode_data no end",
        "b.encode_data no end",
        "a.encode_data no end",
        "a.on_destroy",
        "b.on_destroy",
        "c.on_destroy",
    ]
    assert not stage.proxy.network.upstream


def test_an_answer_to_an_answer_goes_out_without_the_filters() -> None:
    """A regression: a filter that answers from ``encode_headers`` answered its own answer, without end."""
    stage = Stage(a={"encode_headers": reply}, b={})
    stage.client.send(GET)
    stage.origin.send(OK)
    assert head_and_body(stage.client.take())[0::2] == (b"HTTP/1.1 403 Forbidden", b"no")
    assert stage.take_calls("encode") == ["b.encode_headers 200", "a.encode_headers 200"]
    stage.close()


def test_an_answer_may_wait_at_a_filter_too() -> None:
    stage = Stage(a={"encode_headers": STOP_ITERATION, "encode_data": STOP_AND_BUFFER}, b={"decode_headers": reply})
    stage.client.send(GET)
    assert stage.client.take() == b""
    stage["a"].callbacks.continue_encoding()
    assert head_and_body(stage.client.take())[0::2] == (b"HTTP/1.1 403 Forbidden", b"no")
    stage.close()


def test_answering_twice_is_answering_once() -> None:
    def twice(probe: Probe, *arguments: object) -> int:
        reply(probe)
        return reply(probe)

    stage = Stage(a={"decode_headers": twice})
    stage.client.send(GET)
    assert stage.client.take().count(b"HTTP/1.1") == 1
    assert len(stage.proxy.log.infos) == 1


def test_an_answer_without_a_body() -> None:
    stage = Stage(a={"decode_headers": lambda probe, *_: probe.callbacks.send_local_reply(204) or STOP_ITERATION})
    stage.client.send(GET)
    first, fields, body = head_and_body(stage.client.take())
    assert (first, body) == (b"HTTP/1.1 204 No Content", b"")
    assert b"content-length" not in fields
    assert b"content-type" not in fields


def test_the_answer_to_head_has_the_length_and_no_body() -> None:
    stage = Stage(a={"decode_headers": reply})
    stage.client.send(b"HEAD / HTTP/1.1\r\nhost: h\r\n\r\n")
    _, fields, body = head_and_body(stage.client.take())
    assert (fields[b"content-length"], body) == (b"2", b"")
    stage.client.send(b"HEAD / HTTP/1.1\r\nhost: h\r\n\r\n")
    assert stage.client.take().startswith(b"HTTP/1.1 403")


def test_after_an_answer_the_filters_see_no_more_of_the_request() -> None:
    stage = Stage(a={"decode_headers": reply, "encode_headers": STOP_ITERATION, "encode_data": STOP_AND_BUFFER})
    stage.client.send(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\n")
    stage.client.send(b"ab")
    assert stage.take_calls("decode") == ["a.decode_headers"]
    stage["a"].callbacks.continue_decoding()
    assert stage.take_calls("decode") == []
    stage["a"].callbacks.continue_encoding()
    assert stage.client.take().endswith(b"no")


# the end of a stream


def test_a_filter_that_waits_is_told_when_the_client_leaves() -> None:
    stage = Stage(a={"decode_headers": STOP_ALL_AND_BUFFER})
    stage.client.send(GET)
    stage.client.fin()
    assert stage.take_calls() == ["a.decode_headers end", "a.on_destroy"]
    callbacks = stage["a"].callbacks
    callbacks.continue_decoding()
    callbacks.continue_encoding()
    callbacks.send_local_reply(500)
    callbacks.clear_route_cache()
    assert stage.take_calls() == []
    assert stage.client.take() == b""
    stage.close()


def test_a_timer_of_a_filter_runs_once() -> None:
    def later(probe: Probe, *arguments: object) -> int:
        probe.callbacks.call_later(5.0, probe.callbacks.continue_decoding)
        return STOP_ITERATION

    stage = Stage(a={"decode_headers": later})
    stage.client.send(GET)
    stage.proxy.loop.advance(4.9)
    assert not stage.reached_origin
    stage.proxy.loop.advance(0.2)
    assert stage.reached_origin


def test_a_timer_of_a_filter_ends_with_the_stream() -> None:
    fired: list[bool] = []

    def later(probe: Probe, *arguments: object) -> int:
        probe.callbacks.call_later(5.0, lambda: fired.append(True))
        return STOP_ITERATION

    def late(probe: Probe) -> None:
        probe.callbacks.call_later(1.0, lambda: fired.append(True))

    stage = Stage(a={"decode_headers": later, "on_destroy": late})
    stage.client.send(GET)
    stage.client.fin()
    stage["a"].callbacks.call_later(1.0, lambda: fired.append(True))
    stage.proxy.loop.advance(20)
    assert fired == []


def test_a_filter_that_waits_for_ever_is_bounded_by_the_stream_idle_timeout() -> None:
    """A regression: with a route timeout, which begins only at the router, nothing bounded it."""
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "15s"}}]
    stage = Stage({"routes": routes}, a={"decode_headers": STOP_ITERATION})
    stage.client.send(GET)
    stage.proxy.loop.advance(301)
    assert stage.client.take().startswith(b"HTTP/1.1 504 ")
    stage.close()


# routes


def test_a_filter_may_have_the_route_chosen_again() -> None:
    routes = [
        {"match": {"prefix": "/b"}, "name": "b", "direct_response": {"status": 201}},
        {"match": {"prefix": "/"}, "name": "a", "direct_response": {"status": 200}},
    ]

    def move(probe: Probe, headers: RequestHeaders, end_stream: bool) -> None:
        assert probe.callbacks.stream_info.route_name == "a"
        headers.path = b"/b"
        probe.callbacks.clear_route_cache()

    stage = Stage({"routes": routes}, a={"decode_headers": move})
    stage.client.send(GET)
    assert stage.client.take().startswith(b"HTTP/1.1 201")
    assert stage.proxy.log.infos[0].route_name == "b"


# faults


def fail(probe: Probe, *arguments: object) -> int:
    raise ZeroDivisionError


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("whole", [True, False])
def test_a_fault_in_a_filter_costs_its_connection_only(
    hook: str, whole: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A regression: a fault with the last bytes of a response left the client waiting."""
    stage = Stage(WITH_TRAILERS, a={hook: fail})
    other = stage.proxy.client(("192.0.2.8", 1))
    with caplog.at_level(logging.CRITICAL):
        pieces: list[bytes] = [REQUEST] if whole else [CHUNKED, b"2\r\nab\r\n", b"0\r\nt: 1\r\n\r\n"]
        for piece in pieces:
            stage.client.send(piece)
        if stage.reached_origin and not stage.origin.is_closed:
            for piece in [RESPONSE] if whole else [CHUNKED_RESPONSE, b"2\r\ncd\r\n", b"0\r\nu: 2\r\n\r\n"]:
                stage.origin.send(piece)
        stage.proxy.loop.advance(2)
    assert stage.client.is_closed
    assert not other.is_closed
    assert len(stage.proxy.log.infos) == 1
    assert stage.take_calls("destroy") == ["a.on_destroy"]
    other.fin()
    for peer in stage.proxy.network.origins():
        peer.fin()
    stage.proxy.assert_nothing_left()


def test_the_hooks_of_a_plain_filter_pass_everything_on() -> None:
    stage = Stage(WITH_TRAILERS, a=dict.fromkeys(HOOKS, CONTINUE))
    plain: Any = play(stage)
    assert head_and_body(plain)[2] == b"2\r\ncd\r\n0\r\nu: 2\r\n\r\n"

"""What a filter that holds a body back costs: a refusal, or back-pressure; nothing is kept without a limit."""

from __future__ import annotations

import pytest

from tests.unit.worker.http.filters import Probe, Stage
from tests.unit.worker.proxy import GET, OK, head_and_body
from workerproxy.extensions.base import (
    STOP_ALL_AND_BUFFER,
    STOP_ALL_AND_WATERMARK,
    STOP_AND_BUFFER,
    STOP_AND_WATERMARK,
    STOP_ITERATION,
    STOP_NO_BUFFER,
    Body,
)

SMALL = {"listener": {"per_connection_buffer_limit_bytes": 10}}
POST = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 30\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n"
BUFFERING = [{"decode_headers": STOP_ALL_AND_BUFFER}, {"decode_data": STOP_AND_BUFFER}]
WATERMARK = [{"decode_headers": STOP_ALL_AND_WATERMARK}, {"decode_data": STOP_AND_WATERMARK}]


def encoding(hooks: dict[str, int]) -> dict[str, int]:
    return {name.replace("decode", "encode"): status for name, status in hooks.items()}


@pytest.mark.parametrize("hooks", BUFFERING)
def test_a_request_body_over_the_limit_is_refused_with_413(hooks: dict[str, int]) -> None:
    stage = Stage(SMALL, a=hooks)
    stage.client.send(POST, b"x" * 10)
    assert stage.client.take() == b""  # at the limit is not over it
    stage.client.send(b"x")
    first, fields, body = head_and_body(stage.client.take())
    assert first == b"HTTP/1.1 413 Payload Too Large"
    assert fields[b"connection"] == b"close"
    assert body == b"Payload Too Large"
    assert stage.proxy.stats.downstream_rq_too_large == 1
    assert stage.proxy.log.infos[0].response_code_details == "request_payload_too_large"
    stage.close()


@pytest.mark.parametrize("hooks", BUFFERING)
def test_a_response_body_over_the_limit_becomes_500(hooks: dict[str, int]) -> None:
    """Unless its headers have left: then the response is cut off."""
    stage = Stage(SMALL, a=encoding(hooks))
    stage.client.send(GET)
    stage.origin.send(RESPONSE + b"x" * 10, b"x")
    info = stage.proxy.log.infos[0]
    assert stage.proxy.stats.rs_too_large == 1
    assert info.response_code_details == "response_payload_too_large"
    got = stage.client.take()
    if "encode_headers" in encoding(hooks):
        first, _, body = head_and_body(got)
        assert first == b"HTTP/1.1 500 Internal Server Error"
        assert body == b"Internal Server Error"
    else:
        assert head_and_body(got)[2] == b""
        assert stage.client.got_fin
    stage.close()


@pytest.mark.parametrize("hooks", WATERMARK)
def test_a_request_body_over_the_limit_waits_in_the_client(hooks: dict[str, int]) -> None:
    stage = Stage(SMALL, a=hooks)
    stage.client.send(POST, b"x" * 11)
    stats = stage.proxy.stats
    assert stats.downstream_flow_control_paused_reading_total == 1
    stage.client.send(b"x" * 10)
    assert len(stage.client.sock.incoming) == 1  # nobody reads
    stage["a"].callbacks.continue_decoding()
    assert stats.downstream_flow_control_resumed_reading_total == 1
    stage.client.send(b"x" * 9)
    stage["a"].callbacks.continue_decoding()
    assert head_and_body(stage.origin.take())[2] == b"x" * 30
    stage.origin.send(OK)
    stage.client.take()
    stage.close()


@pytest.mark.parametrize("hooks", WATERMARK)
def test_a_response_body_over_the_limit_waits_in_the_origin(hooks: dict[str, int]) -> None:
    stage = Stage(SMALL, a=encoding(hooks))
    stage.client.send(GET)
    stage.origin.send(RESPONSE + b"x" * 11, b"x" * 10)
    assert len(stage.origin.sock.incoming) == 1
    stats = stage.proxy.cluster.stats
    assert stats.upstream_flow_control_paused_reading_total == 1
    stage["a"].callbacks.continue_encoding()
    assert stats.upstream_flow_control_resumed_reading_total == 1
    stage.origin.send(b"x" * 9)
    stage["a"].callbacks.continue_encoding()
    assert head_and_body(stage.client.take())[2] == b"x" * 30
    stage.client.send(GET)  # the connection is as good as new
    stage.origin.send(OK)
    stage["a"].callbacks.continue_encoding()
    assert stage.client.take().endswith(b"ok")
    stage.close()


@pytest.mark.parametrize("ending", ["client", "close", "reply"])
@pytest.mark.parametrize("direction", ["request", "response"])
def test_a_stream_that_ends_while_a_filter_holds_it_back(direction: str, ending: str) -> None:
    """A regression: with the response held back the end of the stream raised, and its connection stayed."""
    stage = Stage(SMALL, a={"decode_data" if direction == "request" else "encode_data": STOP_AND_WATERMARK})
    stage.client.send(POST + b"x" * 11 if direction == "request" else GET)
    assert stage.reached_origin
    if direction == "response":
        stage.origin.send(RESPONSE + b"x" * 11)
    if ending == "client":
        stage.proxy.manager.on_peer_gone()
    elif ending == "close":
        stage.proxy.manager.close()
    else:
        stage["a"].callbacks.send_local_reply(500)
    stage.proxy.loop.advance(2)
    assert stage.take_calls("on_destroy") == ["a.on_destroy"]
    assert len(stage.proxy.log.infos) == 1
    stage.client.fin()
    stage.origin.fin()
    stage.proxy.assert_nothing_left()


def test_what_a_filter_takes_for_itself_has_no_limit_here() -> None:
    taken = Body()

    def take(probe: Probe, data: Body, end_stream: bool) -> int:
        taken.append(data.drain())
        if end_stream:
            data.set(taken.join())
            return 0
        return STOP_NO_BUFFER

    stage = Stage(SMALL, a={"decode_headers": STOP_ITERATION, "decode_data": take})
    stage.client.send(POST, b"a" * 15, b"b" * 15)
    assert head_and_body(stage.origin.take())[2] == b"a" * 15 + b"b" * 15


def test_a_limit_of_0_is_no_limit() -> None:
    """Envoy: setBufferLimit(0) disables the watermarks."""
    stage = Stage({"listener": {"per_connection_buffer_limit_bytes": 0}}, a={"decode_data": STOP_AND_BUFFER})
    stage.client.send(POST, b"x" * 29)
    assert stage.client.take() == b""
    stage.client.send(b"x")
    stage["a"].callbacks.continue_decoding()
    assert head_and_body(stage.origin.take())[2] == b"x" * 30

"""How a request and a response pass the filters: every status a filter may answer, as Envoy means it.

(``envoy/http/filter.h``: FilterHeadersStatus, FilterDataStatus, FilterTrailersStatus.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.worker.http.filters import Hook, Probe, Stage, answers
from tests.unit.worker.proxy import GET, OK, head_and_body
from workerproxy.extensions.base import (
    CONTINUE,
    STOP_ALL_AND_BUFFER,
    STOP_ALL_AND_WATERMARK,
    STOP_AND_BUFFER,
    STOP_AND_WATERMARK,
    STOP_ITERATION,
    STOP_NO_BUFFER,
    Body,
)
from workerproxy.http.headers import HeaderMap, RequestHeaders, ResponseHeaders

POST = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 6\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
TRAILERS = {"http_protocol_options": {"enable_trailers": True}}
UPSTREAM_TRAILERS = {
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http_protocol_options": {"enable_trailers": True}},
        }
    }
}
WITH_TRAILERS = {"hcm": TRAILERS, "cluster": UPSTREAM_TRAILERS}
RESPONSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n"
CHUNKED_RESPONSE = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def test_the_request_passes_in_order_and_the_response_in_reverse() -> None:
    stage = Stage(a={}, b={})
    stage.client.send(GET)
    assert stage.take_calls() == ["a.decode_headers end", "b.decode_headers end"]
    stage.origin.send(OK)
    assert stage.take_calls() == [
        "b.encode_headers 200",
        "a.encode_headers 200",
        "b.encode_data ok end",
        "a.encode_data ok end",
        "a.on_destroy",
        "b.on_destroy",
    ]
    assert stage.client.take().endswith(b"ok")
    stage.close()


def test_bodies_and_trailers_pass_both_ways() -> None:
    stage = Stage(WITH_TRAILERS, a={})
    stage.client.send(CHUNKED + b"2\r\nab\r\n", b"2\r\ncd\r\n0\r\nt: 1\r\n\r\n")
    assert stage.take_calls() == [
        "a.decode_headers",
        "a.decode_data ab",
        "a.decode_data cd",
        "a.decode_trailers",
    ]
    assert stage.origin.take().endswith(b"\r\n\r\n2\r\nab\r\n2\r\ncd\r\n0\r\nt: 1\r\n\r\n")
    stage.origin.send(CHUNKED_RESPONSE, b"2\r\nef\r\n", b"0\r\nu: 2\r\n\r\n")
    assert stage.take_calls("encode") == ["a.encode_headers 200", "a.encode_data ef", "a.encode_trailers"]
    assert stage.client.take().endswith(b"\r\n\r\n2\r\nef\r\n0\r\nu: 2\r\n\r\n")
    stage.close()


def test_a_body_in_one_read_with_its_head_is_one_run_of_data() -> None:
    stage = Stage(a={})
    stage.client.send(POST + b"abcdef")
    assert stage.take_calls() == ["a.decode_headers", "a.decode_data abcdef end"]


# headers


@pytest.mark.parametrize("status", [STOP_ITERATION, STOP_ALL_AND_BUFFER, STOP_ALL_AND_WATERMARK])
def test_headers_wait_until_the_filter_continues(status: int) -> None:
    stage = Stage(a={"decode_headers": status}, b={})
    stage.client.send(GET)
    assert stage.take_calls() == ["a.decode_headers end"]
    assert not stage.reached_origin
    stage["a"].callbacks.continue_decoding()
    assert stage.take_calls() == ["b.decode_headers end"]
    assert stage.reached_origin
    stage["a"].callbacks.continue_decoding()  # it is not stopped any more
    assert stage.take_calls() == []
    stage.origin.send(OK)
    assert stage.client.take().endswith(b"ok")
    stage.close()


@pytest.mark.parametrize("status", [STOP_ITERATION, STOP_ALL_AND_BUFFER, STOP_ALL_AND_WATERMARK])
def test_response_headers_wait_until_the_filter_continues(status: int) -> None:
    stage = Stage(a={}, b={"encode_headers": status})
    stage.client.send(GET)
    stage.origin.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert stage.take_calls("encode") == ["b.encode_headers 204 end"]
    assert stage.client.take() == b""
    stage["b"].callbacks.continue_encoding()
    assert stage.take_calls("encode") == ["a.encode_headers 204 end"]
    assert stage.client.take().startswith(b"HTTP/1.1 204 No Content\r\n")
    stage.close()


def test_after_stop_iteration_data_still_reaches_the_filter_that_stopped() -> None:
    stage = Stage(WITH_TRAILERS, a={"decode_headers": STOP_ITERATION, "decode_data": STOP_AND_BUFFER}, b={})
    stage.client.send(CHUNKED, b"2\r\nab\r\n", b"2\r\ncd\r\n")
    assert stage.take_calls() == ["a.decode_headers", "a.decode_data ab", "a.decode_data cd"]
    stage.client.send(b"0\r\nt: 1\r\n\r\n")
    # Its decode_trailers answers CONTINUE, which lets everything go.
    assert stage.take_calls() == ["a.decode_trailers", "b.decode_headers", "b.decode_data abcd", "b.decode_trailers"]
    assert stage.origin.take().endswith(b"0\r\nt: 1\r\n\r\n")


def test_after_stop_iteration_data_that_continues_takes_the_headers_along() -> None:
    stage = Stage(a={"decode_headers": STOP_ITERATION, "decode_data": answers(STOP_AND_BUFFER, CONTINUE)}, b={})
    stage.client.send(POST, b"abc")
    assert stage.take_calls() == ["a.decode_headers", "a.decode_data abc"]
    stage.client.send(b"def")
    assert stage.take_calls() == ["a.decode_data def end", "b.decode_headers", "b.decode_data abcdef end"]
    assert stage.origin.take().endswith(b"abcdef")


def test_after_stop_all_nothing_reaches_the_filter_until_it_continues() -> None:
    stage = Stage(WITH_TRAILERS, a={"decode_headers": STOP_ALL_AND_BUFFER}, b={})
    stage.client.send(CHUNKED, b"2\r\nab\r\n", b"2\r\ncd\r\n", b"0\r\nt: 1\r\n\r\n")
    assert stage.take_calls() == ["a.decode_headers"]
    stage["a"].callbacks.continue_decoding()
    # The filter sees now what it has not seen yet.
    assert stage.take_calls() == [
        "b.decode_headers",
        "a.decode_data abcd",
        "b.decode_data abcd",
        "a.decode_trailers",
        "b.decode_trailers",
    ]


def test_after_stop_all_in_the_response_nothing_reaches_the_filter_until_it_continues() -> None:
    stage = Stage(WITH_TRAILERS, a={}, b={"encode_headers": STOP_ALL_AND_BUFFER})
    stage.client.send(GET)
    stage.take_calls()
    stage.origin.send(CHUNKED_RESPONSE + b"2\r\nab\r\n", b"0\r\nt: 1\r\n\r\n")
    assert stage.take_calls() == ["b.encode_headers 200"]
    stage["b"].callbacks.continue_encoding()
    assert stage.take_calls("encode") == [
        "a.encode_headers 200",
        "b.encode_data ab",
        "a.encode_data ab",
        "b.encode_trailers",
        "a.encode_trailers",
    ]
    assert stage.client.take().endswith(b"2\r\nab\r\n0\r\nt: 1\r\n\r\n")


# data


def test_stop_and_buffer_gathers_the_body_for_the_filters_behind() -> None:
    seen: list[bytes] = []

    def look(probe: Probe, data: Body, end_stream: bool) -> int:
        kept = probe.callbacks.decoding_buffer()
        seen.append(kept.join() if kept is not None else b"")
        return CONTINUE if end_stream else STOP_AND_BUFFER

    stage = Stage(a={"decode_data": look}, b={})
    stage.client.send(POST, b"ab", b"cd", b"ef")
    assert stage.take_calls() == [
        "a.decode_headers",
        "b.decode_headers",
        "a.decode_data ab",
        "a.decode_data cd",
        "a.decode_data ef end",
        "b.decode_data abcdef end",
    ]
    assert seen == [b"", b"ab", b"abcd"]
    assert stage.origin.take().endswith(b"abcdef")


def test_stop_no_buffer_drops_what_the_filter_has_taken() -> None:
    stage = Stage(a={"decode_data": answers(STOP_NO_BUFFER, STOP_NO_BUFFER, CONTINUE)}, b={})
    stage.client.send(CHUNKED, b"2\r\nab\r\n", b"2\r\ncd\r\n", b"2\r\nef\r\n0\r\n\r\n")
    assert stage.take_calls()[-1] == "b.decode_data ef end"
    assert stage.origin.take().endswith(b"\r\n\r\n2\r\nef\r\n0\r\n\r\n")


def test_stop_no_buffer_at_the_end_keeps_the_end() -> None:
    stage = Stage(a={"decode_data": STOP_NO_BUFFER}, b={})
    stage.client.send(CHUNKED + b"2\r\nab\r\n0\r\n\r\n")
    assert not stage.origin.take().endswith(b"0\r\n\r\n")
    stage["a"].callbacks.continue_decoding()
    assert stage.take_calls()[-1] == "b.decode_data  end"
    assert stage.origin.take().endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("status", [STOP_AND_BUFFER, STOP_AND_WATERMARK])
def test_data_that_waits_goes_on_when_the_filter_continues(status: int) -> None:
    stage = Stage(a={"decode_data": status}, b={})
    stage.client.send(POST, b"abc", b"def")
    stage["a"].callbacks.continue_decoding()
    assert stage.take_calls()[-1] == "b.decode_data abcdef end"
    stage.origin.send(OK)
    assert stage.client.take().endswith(b"ok")
    stage.close()


@pytest.mark.parametrize("status", [STOP_AND_BUFFER, STOP_AND_WATERMARK])
def test_a_filter_that_continues_in_the_middle_sees_the_rest(status: int) -> None:
    stage = Stage(a={"decode_data": answers(status, CONTINUE)}, b={})
    stage.client.send(POST, b"abc")
    stage["a"].callbacks.continue_decoding()
    assert stage.take_calls()[-1] == "b.decode_data abc"
    stage.client.send(b"def")
    assert stage.take_calls() == ["a.decode_data def end", "b.decode_data def end"]
    assert stage.origin.take().endswith(b"abcdef")


@pytest.mark.parametrize("status", [STOP_AND_BUFFER, STOP_AND_WATERMARK])
def test_response_data_that_waits_goes_on_when_the_filter_continues(status: int) -> None:
    stage = Stage(a={}, b={"encode_data": status})
    stage.client.send(GET)
    stage.origin.send(RESPONSE_HEAD + b"abc", b"def")
    assert head_and_body(stage.client.take())[2] == b""
    stage["b"].callbacks.continue_encoding()
    assert stage.client.take() == b"abcdef"
    assert stage.take_calls("a.encode_data") == ["a.encode_data abcdef end"]
    stage.close()


def test_a_filter_may_empty_the_body_it_has_kept() -> None:
    def replace(probe: Probe, data: Body, end_stream: bool) -> int:
        if not end_stream:
            return STOP_AND_BUFFER
        kept = probe.callbacks.encoding_buffer()
        assert kept is not None
        data.set(b"<" + kept.drain() + data.drain() + b">")
        return CONTINUE

    def forget_length(probe: Probe, headers: ResponseHeaders, end_stream: bool) -> int:
        headers.remove(b"content-length")
        return CONTINUE

    stage = Stage(a={"encode_data": replace, "encode_headers": forget_length})
    stage.client.send(GET)
    stage.origin.send(RESPONSE_HEAD + b"abc", b"def")
    assert head_and_body(stage.client.take())[2] == b"8\r\n<abcdef>\r\n0\r\n\r\n"


# trailers


def test_trailers_wait_until_the_filter_continues() -> None:
    stage = Stage(WITH_TRAILERS, a={"decode_trailers": STOP_ITERATION}, b={})
    stage.client.send(CHUNKED + b"2\r\nab\r\n0\r\nt: 1\r\n\r\n")
    assert stage.take_calls("trailers") == ["a.decode_trailers"]
    assert not stage.origin.take().endswith(b"0\r\nt: 1\r\n\r\n")
    stage["a"].callbacks.continue_decoding()
    assert stage.take_calls() == ["b.decode_trailers"]
    assert stage.origin.take() == b"0\r\nt: 1\r\n\r\n"


def test_response_trailers_wait_until_the_filter_continues() -> None:
    stage = Stage(WITH_TRAILERS, a={}, b={"encode_trailers": STOP_ITERATION})
    stage.client.send(GET)
    stage.origin.send(CHUNKED_RESPONSE + b"2\r\nab\r\n0\r\nt: 1\r\n\r\n")
    assert head_and_body(stage.client.take())[2] == b"2\r\nab\r\n"
    stage["b"].callbacks.continue_encoding()
    assert stage.client.take() == b"0\r\nt: 1\r\n\r\n"
    stage.close()


def test_trailers_that_continue_take_the_kept_body_along() -> None:
    stage = Stage(WITH_TRAILERS, a={"decode_data": STOP_AND_BUFFER}, b={})
    stage.client.send(CHUNKED + b"2\r\nab\r\n", b"0\r\nt: 1\r\n\r\n")
    assert stage.take_calls()[-2:] == ["b.decode_data ab", "b.decode_trailers"]


# two filters


def test_two_filters_that_stop_wait_each_for_its_own_continue() -> None:
    stage = Stage(
        a={"decode_headers": STOP_ITERATION, "decode_data": STOP_AND_BUFFER},
        b={"decode_headers": STOP_ALL_AND_BUFFER},
        c={},
    )
    stage.client.send(POST, b"abc")
    stage["b"].callbacks.continue_decoding()  # it has not begun
    assert stage.take_calls() == ["a.decode_headers", "a.decode_data abc"]
    stage["a"].callbacks.continue_decoding()
    assert stage.take_calls() == ["b.decode_headers"]
    stage.client.send(b"def")
    assert stage.take_calls() == ["a.decode_data def end"]
    stage["a"].callbacks.continue_decoding()
    assert stage.take_calls() == []
    stage["b"].callbacks.continue_decoding()
    assert stage.take_calls() == ["c.decode_headers", "b.decode_data abcdef end", "c.decode_data abcdef end"]
    assert stage.origin.take().endswith(b"abcdef")


def test_both_directions_stop_independently() -> None:
    stage = Stage(a={"decode_data": STOP_AND_BUFFER, "encode_headers": STOP_ITERATION, "encode_data": STOP_AND_BUFFER})
    stage.client.send(POST + b"abc")
    assert stage.reached_origin
    stage.origin.send(OK)
    assert stage.client.take() == b""
    stage["a"].callbacks.continue_encoding()
    assert stage.client.take().endswith(b"ok")
    stage.close()


# what filters add


def add_body(probe: Probe, headers: RequestHeaders, end_stream: bool) -> None:
    probe.callbacks.add_decoded_data(b"added")


def test_a_body_added_to_a_request_without_one() -> None:
    stage = Stage(a={"decode_headers": add_body}, b={})
    stage.client.send(GET)
    assert stage.take_calls() == ["a.decode_headers end", "b.decode_headers", "b.decode_data added end"]
    assert head_and_body(stage.origin.take())[2] == b"5\r\nadded\r\n0\r\n\r\n"


def test_a_body_added_in_front_of_the_requests_own() -> None:
    stage = Stage(a={"decode_headers": add_body}, b={})
    stage.client.send(CHUNKED + b"2\r\nab\r\n0\r\n\r\n")
    assert head_and_body(stage.origin.take())[2] == b"5\r\nadded\r\n2\r\nab\r\n0\r\n\r\n"


def test_a_body_added_while_the_filter_has_stopped() -> None:
    stage = Stage(a={"decode_headers": STOP_ITERATION}, b={})
    stage.client.send(GET)
    stage["a"].callbacks.add_decoded_data(b"one")
    stage["a"].callbacks.add_decoded_data(b"two")
    stage["a"].callbacks.continue_decoding()
    assert stage.take_calls()[-2:] == ["b.decode_headers", "b.decode_data onetwo end"]


def test_a_body_added_to_a_response_without_one() -> None:
    def add(probe: Probe, headers: ResponseHeaders, end_stream: bool) -> None:
        headers.remove(b"content-length")
        probe.callbacks.add_encoded_data(b"added")

    stage = Stage(a={}, b={"encode_headers": add})
    stage.client.send(GET)
    stage.origin.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    assert head_and_body(stage.client.take())[2] == b"5\r\nadded\r\n0\r\n\r\n"
    assert stage.take_calls("a.encode") == ["a.encode_headers 200", "a.encode_data added end"]


@pytest.mark.parametrize("hook", ["decode_trailers", "encode_trailers"])
def test_data_added_in_front_of_the_trailers(hook: str) -> None:
    def add(probe: Probe, trailers: HeaderMap) -> None:
        if hook == "decode_trailers":
            probe.callbacks.add_decoded_data(b"added")
        else:
            probe.callbacks.add_encoded_data(b"added")

    stage = Stage(WITH_TRAILERS, a={}, b={hook: add}, c={})
    stage.client.send(CHUNKED + b"2\r\nab\r\n0\r\nt: 1\r\n\r\n")
    request = stage.origin.take()
    stage.origin.send(CHUNKED_RESPONSE + b"2\r\nab\r\n0\r\nt: 1\r\n\r\n")
    response = stage.client.take()
    changed = request if hook == "decode_trailers" else response
    assert changed.endswith(b"2\r\nab\r\n5\r\nadded\r\n0\r\nt: 1\r\n\r\n")


def test_data_added_to_the_data_being_passed_is_not_lost() -> None:
    def add(probe: Probe, data: Body, end_stream: bool) -> None:
        probe.callbacks.add_decoded_data(b"!")

    stage = Stage(a={"decode_data": add}, b={})
    stage.client.send(CHUNKED + b"2\r\nab\r\n0\r\n\r\n")
    assert stage.take_calls()[-1] == "b.decode_data ab! end"


def add_trailers(status: int) -> Callable[..., int]:
    def add(probe: Probe, data: Body, end_stream: bool) -> int:
        if end_stream:
            probe.callbacks.add_decoded_trailers()[b"t"] = b"1"
        return status

    return add


def test_trailers_added_to_the_last_data() -> None:
    stage = Stage(WITH_TRAILERS, a={"decode_data": add_trailers(CONTINUE)}, b={})
    stage.client.send(CHUNKED + b"2\r\nab\r\n0\r\n\r\n")
    assert stage.take_calls() == [
        "a.decode_headers",
        "b.decode_headers",
        "a.decode_data ab end",
        "b.decode_data ab",
        "b.decode_trailers",
    ]
    assert stage.origin.take().endswith(b"2\r\nab\r\n0\r\nt: 1\r\n\r\n")


def test_trailers_added_by_a_filter_that_stops_go_on_when_it_continues() -> None:
    """A regression: they were lost."""
    stage = Stage(WITH_TRAILERS, a={"decode_data": add_trailers(STOP_AND_BUFFER)}, b={})
    stage.client.send(CHUNKED + b"2\r\nab\r\n0\r\n\r\n")
    stage["a"].callbacks.continue_decoding()
    assert stage.take_calls()[-2:] == ["b.decode_data ab", "b.decode_trailers"]
    assert stage.origin.take().endswith(b"2\r\nab\r\n0\r\nt: 1\r\n\r\n")


def test_trailers_added_to_the_last_data_of_a_body_that_was_kept() -> None:
    """A regression: they were lost."""

    def keep_then_add(probe: Probe, data: Body, end_stream: bool) -> int:
        return add_trailers(CONTINUE if end_stream else STOP_AND_BUFFER)(probe, data, end_stream)

    stage = Stage(WITH_TRAILERS, a={"decode_data": keep_then_add}, b={})
    stage.client.send(CHUNKED, b"2\r\nab\r\n", b"0\r\n\r\n")
    assert stage.take_calls()[-2:] == ["b.decode_data ab", "b.decode_trailers"]


def test_trailers_added_to_a_response() -> None:
    def add(probe: Probe, data: Body, end_stream: bool) -> None:
        if end_stream:
            probe.callbacks.add_encoded_trailers()[b"t"] = b"1"

    stage = Stage(WITH_TRAILERS, a={}, b={"encode_data": add})
    stage.client.send(GET)
    stage.origin.send(CHUNKED_RESPONSE + b"2\r\nab\r\n0\r\n\r\n")
    assert stage.client.take().endswith(b"2\r\nab\r\n0\r\nt: 1\r\n\r\n")
    assert stage.take_calls("a.encode") == ["a.encode_headers 200", "a.encode_data ab", "a.encode_trailers"]


@pytest.mark.parametrize("empty", [b"", b"x"])
def test_an_empty_piece_added_does_not_end_a_chunked_body(empty: bytes) -> None:
    """A regression: an empty chunk is the last one on the wire."""

    def add(probe: Probe, headers: Any, end_stream: bool) -> None:
        headers.remove(b"content-length")
        (probe.callbacks.add_decoded_data if isinstance(headers, RequestHeaders) else probe.callbacks.add_encoded_data)(
            empty
        )

    stage = Stage(a={"decode_headers": add, "encode_headers": add})
    stage.client.send(POST + b"abcdef")
    added = b"1\r\nx\r\n" if empty else b""
    assert head_and_body(stage.origin.take())[2] == added + b"6\r\nabcdef\r\n0\r\n\r\n"
    stage.origin.send(OK)
    assert head_and_body(stage.client.take())[2] == added + b"2\r\nok\r\n0\r\n\r\n"


def test_what_a_filter_changes_is_what_goes_on() -> None:
    def request(probe: Probe, headers: RequestHeaders, end_stream: bool) -> None:
        headers.path = b"/changed"
        headers.replace(b"x-a", b"1")

    def response(probe: Probe, headers: ResponseHeaders, end_stream: bool) -> None:
        headers.status = 201
        headers.add(b"set-cookie", b"a")
        headers.add(b"set-cookie", b"b")

    def shout(probe: Probe, data: Body, end_stream: bool) -> None:
        data[:] = [chunk.upper() for chunk in data]

    stage = Stage(a={"decode_headers": request, "decode_data": shout, "encode_headers": response, "encode_data": shout})
    stage.client.send(POST + b"abcdef")
    first, fields, body = head_and_body(stage.origin.take())
    assert (first, fields[b"x-a"], body) == (b"POST /changed HTTP/1.1", b"1", b"ABCDEF")
    stage.origin.send(OK)
    first, fields, body = head_and_body(stage.client.take())
    assert (first, fields[b"set-cookie"], body) == (b"HTTP/1.1 201 Created", b"a|b", b"OK")
    assert stage.proxy.log.infos[0].response_code == 201


# informational responses


@pytest.mark.parametrize(("answer", "expected"), [(CONTINUE, b"HTTP/1.1 103 "), (STOP_ITERATION, b"")])
def test_informational_responses_pass_the_filters(answer: Hook, expected: bytes) -> None:
    stage = Stage({"hcm": {"proxy_100_continue": True}}, a={}, b={"encode_1xx_headers": answer})
    stage.client.send(GET)
    stage.take_calls()
    stage.origin.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
    got = stage.client.take()
    assert got[: len(expected)] == expected
    assert bool(got) == bool(expected)
    assert stage.take_calls()[0] == "b.encode_1xx_headers 103"
    stage.origin.send(OK)
    assert stage.client.take().startswith(b"HTTP/1.1 200 OK")


def test_a_filter_may_send_an_informational_response() -> None:
    hints = ResponseHeaders()
    hints.status = 103
    hints[b"link"] = b"</a>"
    stage = Stage({"hcm": {"proxy_100_continue": True}}, a={"decode_headers": STOP_ITERATION})
    stage.client.send(GET)
    stage["a"].callbacks.encode_1xx_headers(hints)
    assert stage.client.take().endswith(b"\r\nlink: </a>\r\n\r\n")
    stage["a"].callbacks.continue_decoding()
    stage.origin.send(OK)
    assert stage.client.take().startswith(b"HTTP/1.1 200 OK")

"""The comparison itself: what it must notice, what it must not, and that its documentation is true."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.compare import is_announced_refusal
from tests.parity.document import DOCUMENT, with_tables
from tests.parity.script import Case, ClientStep, PlayError, read_families, read_play
from tests.parity.verdict import Normaliser, log_line, messages
from tests.support.client import RawClient
from tests.support.origin import Answer, Close, Finish, Origin, Pause, Send, answer

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


def play(tmp_path: Path, text: str) -> list[Case]:
    path = tmp_path / "family.play"
    path.write_text(text)
    return read_play(path).cases


def test_a_play_gives_the_bytes_of_both_sides(tmp_path: Path) -> None:
    text = r"""config: c
listener: l

=== one
# why it is
stats: a b
> GET / HTTP/1.1
> X: \x00{ab*3}\t
>
> body\c
! pause 0.5
! response
< HTTP/1.1 200 OK
<
<! pause 0.25
<! close
<! head
< second\c
"""
    [case] = play(tmp_path, text)
    assert (case.name, case.config, case.listener, case.stats) == ("family/one", "c", "l", ["a", "b"])
    assert case.why == "why it is"
    assert case.client == [
        ClientStep("send", data=b"GET / HTTP/1.1\r\nX: \0ababab\t\r\n\r\nbody"),
        ClientStep("pause", "0.5"),
        ClientStep("response"),
    ]
    assert case.origin == [
        Answer([Send(b"HTTP/1.1 200 OK\r\n\r\n"), Pause(0.25), Close()]),
        Answer([Send(b"second")], "head"),
    ]


def test_a_script_without_steps_waits_for_a_response(tmp_path: Path) -> None:
    [case] = play(tmp_path, "=== one\n> GET\n")
    assert [step.verb for step in case.client] == ["send", "response"]


@pytest.mark.parametrize(
    "body",
    ["nonsense", "key: value", "! dance", "! text", "<! dance", "end: never", "differs: why", "- line", "=== one"],
)
def test_a_line_that_is_not_understood_is_refused(tmp_path: Path, body: str) -> None:
    with pytest.raises(PlayError, match=r"family\.play, case 'one'"):
        play(tmp_path, f"=== one\n> GET\n{body}\n")


def test_messages_are_equal_whatever_the_order_of_different_names() -> None:
    one = b"HTTP/1.1 200 OK\r\na: 1\r\nb: 2\r\nb: 3\r\ncontent-length: 2\r\n\r\nok"
    two = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nb: 2\r\nb: 3\r\na: 1\r\n\r\nok"
    assert messages(one) == messages(two)


@pytest.mark.parametrize(
    "changed",
    [
        b"HTTP/1.0 200 OK\r\na: 1\r\na: 2\r\n\r\n",
        b"HTTP/1.1 200 Fine\r\na: 1\r\na: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: 2\r\na: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: 1\r\na: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na:1\r\na: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: 1\r\na: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\na: 1\r\na: 2\r\n",
        b"",
    ],
)
def test_messages_differ_when_anything_else_does(changed: bytes) -> None:
    assert messages(changed) != messages(b"HTTP/1.1 200 OK\r\na: 1\r\na: 2\r\n\r\n")


def test_chunked_bodies_are_compared_by_content_and_trailers() -> None:
    head = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    whole = messages(head + b"5\r\nhello\r\n0\r\n\r\n")
    assert whole[-1] == "chunked body: hello"
    assert messages(head + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n") == whole
    assert messages(head + b"5\r\nhello\r\n0\r\nx: 1\r\n\r\n")[-1] == "trailer: x: 1"
    assert messages(head + b"5\r\nhello\r\n")[-1].startswith("unfinished chunked body")


def test_messages_after_one_another_are_told_apart() -> None:
    assert [line for line in messages(OK + OK) if line.startswith("HTTP/")] == ["HTTP/1.1 200 OK"] * 2


def test_values_that_must_differ_are_normalised_and_sent_ones_are_not() -> None:
    normalise = Normaliser(b"x: 11111111-1111-4111-8111-111111111111", {12345: "<port>"})
    assert normalise("x: 11111111-1111-4111-8111-111111111111") == "x: 11111111-1111-4111-8111-111111111111"
    assert normalise("x: 21111111-1111-9111-8111-111111111111") == "x: <new uuid, version 9>"
    assert normalise("date: Mon, 01 Jan 2024 00:00:00 GMT") == "date: <date>"
    assert normalise("x-envoy-upstream-service-time: 17") == "x-envoy-upstream-service-time: <ms>"
    assert normalise("location: http://a:12345/ 123456") == "location: http://a:<port>/ 123456"


def test_durations_of_log_lines_are_normalised() -> None:
    line = '[2024-01-01T00:00:00.000Z] "GET /"x HTTP/1.1" 200 - 5 2 17 16 "-" "-" "-" "a" "b"'
    assert log_line(line) == line.replace(" 17 16 ", " <ms> <ms> ")
    assert log_line('{"duration": 3, "code": 200}') == '{"code": 200, "duration": "<ms>"}'


def test_the_origin_follows_its_script() -> None:
    script = [answer(OK), Answer([Send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"), Close(reset=True)], "head")]
    with Origin(script) as origin, RawClient(origin.port) as client:
        client.send_bytewise(GET)
        assert client.read_response()
        assert client.received == OK
        client.send(b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\n")
        assert client.read_response()
        assert client.end == "reset"
        [connection] = origin.connections
        assert connection.received.startswith(GET)
        assert connection.requests == 2


def test_the_origin_half_closes_and_sees_the_peer_go() -> None:
    with Origin([Answer([Send(OK), Finish()])]) as origin, RawClient(origin.port) as client:
        client.send(GET)
        assert client.read_to_close()
        assert client.end == "eof"
        assert not origin.connections[0].ended_by_peer()
        client.close()
        origin.release()
        assert origin.connections[0].ended_by_peer()


def test_a_refused_configuration_is_a_difference_only_with_the_announced_words(tmp_path: Path) -> None:
    [case] = play(tmp_path, "=== one\n> GET\ndiffers: not supported\n+ refused: 'via' is not supported\n")
    assert is_announced_refusal(case, "a.yaml:1:1: 'via' is not supported here")
    assert not is_announced_refusal(case, "a.yaml:1:1: 'server_name' is not supported here")
    [other] = play(tmp_path, "=== one\n> GET\n")
    assert not is_announced_refusal(other, "a.yaml:1:1: 'via' is not supported here")


def test_the_document_has_the_tables_of_the_plays() -> None:
    text = DOCUMENT.read_text()
    assert text == with_tables(text, read_families()), "run python -m tests.parity.document"

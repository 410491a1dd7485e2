"""The load's own honesty: each way a request can fail gets its name, a good answer none. No proxy takes part."""

from __future__ import annotations

import pytest

from tests.support.checked_connection import Ask, CheckedConnection, ExchangeError, Kind
from tests.support.ledger import Failure, Ledger
from tests.support.load import ContinuousLoad, Mix, small_request, stream_request, upload_request
from tests.support.origin import Answer, Close, Origin, Pause, Send
from tests.support.ports import free_port
from tests.support.processes import wait_until

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LAST = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"


def is_ok(body: bytes) -> str:
    return "" if body == b"ok" else f"not ok: {body!r}"


GET = Ask("/", is_ok)
POST = Ask("/", is_ok, pieces=(b"x" * 100_000,) * 20, pause_s=0.01)


def failure(port: int, *requests: Ask, timeout_s: float = 5.0) -> ExchangeError:
    """Ask on one connection; only the last request may fail, and must."""
    with pytest.raises(ExchangeError) as caught, CheckedConnection(port, timeout_s) as connection:
        for number, request in enumerate(requests):
            assert connection.answered == number
            connection.ask(request)
    return caught.value


def test_refused() -> None:
    error = failure(free_port(), GET)
    assert (error.kind, error.client_port, error.sent_at) == (Kind.REFUSED, 0, 0.0)


@pytest.mark.parametrize("reset", [False, True])
def test_closed_before_the_first_request(reset: bool) -> None:
    """A reset may even come before ``connect`` has returned."""
    with Origin([Answer([Close(reset)], when="accept")]) as origin, pytest.raises(ExchangeError) as caught:
        connection = CheckedConnection(origin.port)
        wait_until(connection.ended, 3.0)
        connection.ask(GET)
    assert (caught.value.kind, caught.value.sent_at) == (Kind.RESET_BEFORE_REQUEST, 0.0)


@pytest.mark.parametrize(
    ("script", "request_", "kind"),
    [
        ([Close(reset=True)], GET, Kind.IN_FLIGHT),
        ([Send(OK[:-1]), Close()], GET, Kind.IN_FLIGHT),
        ([Send(OK[:30]), Close(reset=True)], GET, Kind.IN_FLIGHT),
        ([Send(OK.replace(b"200", b"503"))], GET, Kind.WRONG_ANSWER),
        ([Send(OK.replace(b"ok", b"no"))], GET, Kind.WRONG_ANSWER),
        ([Send(OK + b"and more")], GET, Kind.WRONG_ANSWER),
        ([Pause(1.0)], GET, Kind.TIMEOUT),
        ([Send(OK[:-1]), Pause(1.0)], GET, Kind.TIMEOUT),
    ],
)
def test_failed_in_the_middle(script: list[Send | Pause | Close], request_: Ask, kind: Kind) -> None:
    with Origin([Answer(script)]) as origin:
        error = failure(origin.port, request_, timeout_s=0.5)
    assert error.kind is kind
    assert error.sent_at > 0.0


def test_reset_in_the_middle_of_an_upload() -> None:
    with Origin([Answer([Close(reset=True)], when="head")]) as origin:
        assert failure(origin.port, POST).kind is Kind.IN_FLIGHT


def test_a_later_request_that_meets_the_close() -> None:
    with Origin([Answer([Send(OK)]), Answer([Close()])]) as origin:
        assert failure(origin.port, GET, GET).kind is Kind.STALE_KEEPALIVE


def test_a_good_answer_and_its_wish_to_close() -> None:
    with Origin([Answer([Send(OK)]), Answer([Send(LAST)])]) as origin, CheckedConnection(origin.port) as connection:
        connection.ask(GET)
        assert connection.open
        connection.ask(GET)
        assert not connection.open
        assert connection.answered == 2


@pytest.mark.parametrize("request_", [small_request(), stream_request(1.0), upload_request(0.1)])
def test_anothers_answer_fits_no_request(request_: Ask) -> None:
    assert request_.check(b"endpoint 1 answers GET /id/0\n")
    assert request_.check(b'{"endpoint": "1", "bytes": 1}')
    assert request_.check(b"line 1 of 1 from endpoint 1\n")


def test_only_what_was_asked_of_a_killed_worker_was_in_flight_on_it() -> None:
    mix = Mix(keep_alive=0, new_connection=1, stream=0, upload=0, late=0)
    with Origin([Answer([Close()])] * 5) as origin, ContinuousLoad(origin.port, mix) as load:
        wait_until(lambda: load.requests() >= 5, 5.0)
    ledger = load.ledger
    first = ledger.failures()
    assert {failure.kind for failure in first[:5]} == {Kind.IN_FLIGHT}
    assert ledger.others() == first
    ledger.worker_killed([first[2].client_port])
    assert ledger.failures() == first
    assert ledger.others() == [*first[:2], *first[3:]]


def test_an_unused_connection_of_a_killed_worker_is_no_failed_request() -> None:
    ledger = Ledger()
    ledger.add(Failure(1.0, "late", Kind.RESET_BEFORE_REQUEST, "closed", 4711, 0.0))
    ledger.add(Failure(1.0, "late", Kind.RESET_BEFORE_REQUEST, "closed", 4712, 0.0))
    ledger.worker_killed([4711])
    assert [failure.client_port for failure in ledger.failures()] == [4712]
    assert ledger.unused() == 1

"""What the operations under load take and how their failures are judged. Nothing is started."""

from __future__ import annotations

import pytest

from loadtests.operations import SCENARIOS, judge, main
from tests.support.checked_connection import Kind
from tests.support.ledger import Failure, Ledger


def failure(kind: Kind, client_port: int, sent_at: float = 1.0) -> Failure:
    return Failure(2.0, "small", kind, "closed", client_port, sent_at)


def test_what_was_in_flight_on_a_killed_worker_is_counted_and_not_wrong() -> None:
    ledger = Ledger()
    ledger.add(failure(Kind.STALE_KEEPALIVE, 4711))
    ledger.worker_killed([4711])
    outcome = judge("1 x SIGKILL", 1234, ledger, [])
    assert outcome.wrong == []
    assert outcome.text.startswith(
        "1 x SIGKILL: 1,234 requests, 1 failed: refused 0, reset before request 0, in flight 1,"
    )


@pytest.mark.parametrize("kind", Kind)
def test_any_other_failure_is_wrong(kind: Kind) -> None:
    ledger = Ledger()
    ledger.add(failure(kind, 4712))
    ledger.worker_killed([4711])
    (wrong,) = judge("1 x SIGKILL", 1, ledger, []).wrong
    assert kind.value in wrong


def test_no_request_and_a_traceback_are_wrong() -> None:
    assert len(judge("x", 0, Ledger(), ["Traceback (most recent call last)"]).wrong) == 2


def test_a_failure_crosses_processes_as_a_line() -> None:
    original = failure(Kind.IN_FLIGHT, 4711)
    assert Failure.from_json(original.as_json()) == original


@pytest.mark.parametrize("arguments", [["nonsense"], ["kill", "--repeat", "0"], ["kill", "--users", "x"]])
def test_bad_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error" in capsys.readouterr().err


def test_every_scenario_is_bounded() -> None:
    assert all(1 <= scenario.repeat <= 50 for scenario in SCENARIOS.values())

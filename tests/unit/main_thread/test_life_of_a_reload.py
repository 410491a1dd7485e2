"""``docs/life_of_a_reload.md`` says what the tables in the code say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from workerproxy.control import messages as m
from workerproxy.main_thread import drain, listener_manager, reload, signals, worker_slot

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "life_of_a_reload.md").read_text()


def table(heading: str) -> list[tuple[str, ...]]:
    """The rows of the first table below a heading, without its head."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert rows, heading
    return [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows[2:]]


def test_every_message_is_listed_with_who_says_it_and_what_answers() -> None:
    answers = {"Prepared", "Refused", "Committed", "Done", "StatsFlushed", "HeartbeatAck", "ClusterReport"}
    answers |= {"HandOver", "RefusedHandOver"}
    listed = {row[0]: row[1:] for row in table("Messages")}
    for cls in m.MESSAGES.values():
        if cls.__name__ not in answers:
            said_by, answered_by = listed.pop(cls.__name__)
            assert said_by == m.sender_of(cls)
            assert answered_by == m.answer_of(cls)
    assert listed == {}


@pytest.mark.parametrize(
    ("heading", "states"),
    [
        ("Reload", reload.TRANSITIONS),
        ("Listeners", listener_manager.TRANSITIONS),
        ("The way out", drain.TRANSITIONS),
    ],
)
def test_states_by_state(heading: str, states: dict[str, dict[str, str]]) -> None:
    wanted = {(state, event, after) for state, events in states.items() for event, after in events.items()}
    assert set(table(heading)) == wanted


def test_the_states_of_a_workers_place() -> None:
    listed = {
        (event, state, after) for event, before, after in table("A worker's place") for state in before.split(", ")
    }
    names = {worker_slot.COMMITTING: "committed"}
    wanted = {
        (names.get(event, event), before, after)
        for event, moves in worker_slot.TRANSITIONS.items()
        for before, after in moves.items()
    }
    assert listed == wanted


def test_every_signal_is_listed() -> None:
    listed = {name for row in table("Signals") for name in re.findall(r"SIG[A-Z0-9]+", row[0])}
    assert {number.name for number in signals.ACTIONS} <= listed

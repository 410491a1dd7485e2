"""The literal state tables: every state can be reached and left, and the terminal ones cannot be left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from workerproxy.control import messages as m
from workerproxy.main_thread import drain, listener_manager, reload, worker_slot
from workerproxy.worker import worker


def reachable(start: str, edges: Iterable[tuple[str, str]]) -> set[str]:
    edges = list(edges)
    found = {start}
    while more := {after for before, after in edges if before in found} - found:
        found |= more
    return found


def by_state(table: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
    return [(state, following) for state, events in table.items() for following in events.values()]


def by_event(table: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
    return [pair for moves in table.values() for pair in moves.items()]


def test_a_listener_ends_once_and_only_a_committed_one_is_active() -> None:
    edges = by_state(listener_manager.TRANSITIONS)
    assert reachable(listener_manager.OPENING, edges) == set(listener_manager.TRANSITIONS)
    assert not listener_manager.TRANSITIONS[listener_manager.CLOSED]
    into = [(state, event) for state, events in listener_manager.TRANSITIONS.items() for event in events
            if events[event] == listener_manager.ACTIVE]  # fmt: skip
    assert into == [(listener_manager.OPENING, "committed")]


def test_a_reload_always_comes_back_to_idle() -> None:
    edges = by_state(reload.TRANSITIONS)
    assert reachable(reload.IDLE, edges) == set(reload.TRANSITIONS)
    for state in reload.TRANSITIONS:
        assert reload.IDLE in reachable(state, edges)


def test_nothing_is_committed_that_not_all_have_prepared() -> None:
    into = [(state, event) for state, events in reload.TRANSITIONS.items() for event in events
            if events[event] == reload.COMMITTING]  # fmt: skip
    assert into == [(reload.PREPARING, "all prepared")]
    assert set(reload.TRANSITIONS[reload.ABORTING]) == {"done"}


def test_a_drain_ends_and_never_begins_again() -> None:
    edges = by_state(drain.TRANSITIONS)
    assert reachable(drain.RUNNING, edges) == set(drain.TRANSITIONS)
    assert drain.RUNNING not in {after for before, after in edges if before != drain.RUNNING}
    assert not drain.TRANSITIONS[drain.STOPPED]
    for state in (drain.RUNNING, drain.DRAINING):
        assert drain.STOPPED in reachable(state, edges)


def test_a_second_signal_while_draining_stops() -> None:
    assert drain.TRANSITIONS[drain.GRACE]["asked"] == drain.STOPPING
    assert drain.TRANSITIONS[drain.DRAINING]["asked"] == drain.STOPPING


def test_a_worker_place_can_always_be_filled_again_until_it_is_given_up() -> None:
    edges = by_event(worker_slot.TRANSITIONS)
    states = {state for edge in edges for state in edge}
    assert reachable(worker_slot.EMPTY, edges) == states
    for state in states - {worker_slot.ENDED}:
        assert worker_slot.SERVING in reachable(state, edges)
    assert reachable(worker_slot.ENDED, edges) == {worker_slot.ENDED}


def test_a_process_can_die_in_every_state_that_has_one() -> None:
    alive = {worker_slot.STARTED, worker_slot.PREPARED, worker_slot.SERVING, worker_slot.DRAINING}
    assert set(worker_slot.TRANSITIONS[worker_slot.DYING]) == alive


def test_a_worker_obeys_every_message_of_the_main_process_in_some_state() -> None:
    handled = {message for events in worker.TRANSITIONS.values() for message in events}
    assert handled == {message for message in m.MESSAGES.values() if m.sender_of(message) == m.MAIN}


@pytest.mark.parametrize("state", [worker.UNBORN, worker.BORN, worker.SERVING, worker.DRAINING])
def test_a_worker_can_be_stopped_in_every_state(state: str) -> None:
    assert worker.TRANSITIONS[state][m.Stop] == worker.STOPPED


def test_a_worker_is_born_once_and_serves_only_after_a_commit() -> None:
    assert [state for state, events in worker.TRANSITIONS.items() if m.Birth in events] == [worker.UNBORN]
    into = {message for events in worker.TRANSITIONS.values() for message, after in events.items()
            if after == worker.SERVING and worker.TRANSITIONS[worker.BORN].get(message) == worker.SERVING}  # fmt: skip
    assert into == {m.Commit}
    assert not worker.TRANSITIONS[worker.STOPPED]

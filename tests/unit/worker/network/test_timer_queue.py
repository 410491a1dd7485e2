"""Timeouts of one duration: order, restarting, cancelling, and what happens when a callback fails."""

from __future__ import annotations

import itertools
import logging
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.worker.fakes import FakeLoop
from workerproxy.worker.network.dispatcher import Dispatcher, TimerQueue


def queue_on(loop: FakeLoop, duration_s: float = 10.0) -> tuple[TimerQueue[str], list[tuple[float, str]]]:
    fired: list[tuple[float, str]] = []
    queue: TimerQueue[str] = TimerQueue(
        cast(Any, loop), duration_s, lambda target: fired.append((loop.now, target)), loop.time
    )
    return queue, fired


def test_a_target_expires_once_after_its_duration() -> None:
    loop = FakeLoop()
    queue, fired = queue_on(loop)
    queue.set("a")
    loop.advance(9.9)
    assert fired == []
    loop.advance(0.2)
    assert [target for _, target in fired] == ["a"]
    loop.advance(100)
    assert len(fired) == 1
    assert len(queue) == 0


def test_setting_again_starts_the_time_anew() -> None:
    loop = FakeLoop()
    queue, fired = queue_on(loop)
    queue.set("a")
    loop.advance(9)
    queue.set("a")
    loop.advance(9)
    assert fired == []
    loop.advance(1.1)
    assert [target for _, target in fired] == ["a"]


def test_a_cancelled_target_does_not_expire_and_cancelling_twice_is_nothing() -> None:
    loop = FakeLoop()
    queue, fired = queue_on(loop)
    queue.set("a")
    queue.cancel("a")
    queue.cancel("a")
    queue.cancel("never set")
    loop.advance(100)
    assert fired == []


def test_one_timer_of_the_loop_serves_all_targets_and_rests_when_there_are_none() -> None:
    loop = FakeLoop()
    queue, _ = queue_on(loop)
    for number in range(100):
        queue.set(str(number))
    assert len(loop.waiting()) == 1
    loop.advance(11)
    assert loop.waiting() == []
    queue.set("again")
    assert len(loop.waiting()) == 1


def test_a_callback_may_set_its_own_target_again() -> None:
    loop = FakeLoop()
    fired: list[float] = []

    def again(target: str) -> None:
        fired.append(loop.now)
        if len(fired) < 3:
            queue.set(target)

    queue: TimerQueue[str] = TimerQueue(cast(Any, loop), 5.0, again, loop.time)
    queue.set("a")
    loop.advance(100)
    assert len(fired) == 3
    assert [round(b - a) for a, b in itertools.pairwise(fired)] == [5, 5]


def test_a_callback_may_cancel_another_target_that_is_due_too() -> None:
    loop = FakeLoop()
    fired: list[str] = []

    def first_cancels(target: str) -> None:
        fired.append(target)
        queue.cancel("b")

    queue: TimerQueue[str] = TimerQueue(cast(Any, loop), 5.0, first_cancels, loop.time)
    queue.set("a")
    queue.set("b")
    loop.advance(10)
    assert fired == ["a"]


def test_a_callback_that_fails_costs_no_other_target_its_timeout(caplog: pytest.LogCaptureFixture) -> None:
    """A regression: the queue was never armed again."""
    loop = FakeLoop()
    fired: list[str] = []

    def fails(target: str) -> None:
        fired.append(target)
        if target == "bad":
            raise ZeroDivisionError

    queue: TimerQueue[str] = TimerQueue(cast(Any, loop), 5.0, fails, loop.time)
    queue.set("bad")
    queue.set("good")
    with caplog.at_level(logging.ERROR):
        loop.advance(6)
        queue.set("later")
        loop.advance(6)
    assert fired == ["bad", "good", "later"]
    assert "ZeroDivisionError" in caplog.text


@given(st.lists(st.tuples(st.sampled_from(["set", "cancel", "wait"]), st.integers(0, 4)), max_size=40))
def test_any_sequence_fires_as_a_list_of_deadlines_would(steps: list[tuple[str, int]]) -> None:
    loop = FakeLoop()
    queue, fired = queue_on(loop, 3.0)
    deadlines: dict[str, float] = {}
    expected: list[str] = []
    for step, number in steps:
        target = str(number)
        if step == "set":
            deadlines.pop(target, None)
            deadlines[target] = loop.now + 3.0
            queue.set(target)
        elif step == "cancel":
            deadlines.pop(target, None)
            queue.cancel(target)
        else:
            loop.advance(number + 0.5)
            due = [name for name, deadline in deadlines.items() if deadline <= loop.now]
            expected += due
            for name in due:
                del deadlines[name]
        assert [name for _, name in fired] == expected
        assert len(queue) == len(deadlines)


def test_the_dispatcher_gives_the_same_queue_for_the_same_duration_and_callback() -> None:
    dispatcher = Dispatcher(cast(Any, FakeLoop()))
    assert dispatcher.timers(5.0, print) is dispatcher.timers(5.0, print)
    assert dispatcher.timers(5.0, print) is not dispatcher.timers(6.0, print)
    assert dispatcher.timers(5.0, print) is not dispatcher.timers(5.0, list[int]().append)


def test_durations_that_clients_choose_do_not_fill_the_memory() -> None:
    """A regression: every value of x-envoy-upstream-stream-duration-ms left a queue behind for good."""
    loop = FakeLoop()
    dispatcher = Dispatcher(cast(Any, loop), loop.time)
    fired: list[str] = []
    kept = dispatcher.timers(0.5, fired.append)
    kept.set("kept")
    for number in range(10_000):
        queue = dispatcher.timers(1000.0 + number, fired.append)
        queue.set("x")
        queue.cancel("x")
    assert len(dispatcher._queues) < 3000
    assert len(loop.waiting()) < 3000
    assert dispatcher.timers(0.5, fired.append) is kept
    loop.advance(1)
    assert fired == ["kept"]

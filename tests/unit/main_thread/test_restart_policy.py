"""When a dead worker's successor starts."""

from __future__ import annotations

from workerproxy.main_thread.restart_policy import LONGEST_S, SETTLED_S, RestartPolicy


def test_a_worker_that_has_settled_is_replaced_at_once_every_time() -> None:
    policy = RestartPolicy()
    assert [policy.pause_after(SETTLED_S) for _ in range(50)] == [0.0] * 50


def test_a_crash_loop_is_throttled_more_and_more_up_to_a_limit() -> None:
    policy = RestartPolicy()
    pauses = [policy.pause_after(0.1) for _ in range(12)]
    assert pauses[:6] == [0.0, 0.0, 0.5, 1.0, 2.0, 4.0]
    assert pauses[-1] == LONGEST_S
    assert pauses == sorted(pauses)


def test_a_long_life_is_a_fresh_start() -> None:
    policy = RestartPolicy()
    for _ in range(10):
        policy.pause_after(0.1)
    assert policy.pause_after(SETTLED_S + 1) == 0.0
    assert policy.pause_after(0.1) == 0.0

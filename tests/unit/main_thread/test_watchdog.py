"""A worker that does not answer: counted, shown, replaced after the time that is configured."""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Callable
from typing import Any

import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2
from google.protobuf import json_format

from workerproxy.control import messages as m
from workerproxy.control.stats_segment import StatsReader, StatsWriter, StatValues
from workerproxy.main_thread.watchdog import DEFAULT_KILL_S, Watchdog, WatchdogSettings
from workerproxy.main_thread.worker_slot import Pulse, WorkerError


def bootstrap(**fields: Any) -> Any:
    return json_format.ParseDict(fields, bootstrap_pb2.Bootstrap())


class FakeSlot:
    """A place whose process answers heartbeats as ``delays`` say, one after the other; then it has ended."""

    def __init__(self, *delays: float) -> None:
        self.worker_id = 0
        self.pid = 1
        self.pulse = Pulse()
        self.stacks = 0
        self.hangs: list[bool] = []
        self.killed = asyncio.Event()
        self._delays = [0.0, *delays]  # the first answer is its birth

    async def ask(self, message: m.Message, timeout_s: float) -> m.Message:
        if not self._delays:
            self.pid = 0
            raise WorkerError("it ended")
        await asyncio.sleep(self._delays.pop(0))
        return m.HeartbeatAck(7.4, 3)

    def ask_stack(self) -> None:
        self.stacks += 1

    def stack(self) -> str:
        return "the stack"

    def kill(self) -> None:
        self.pid = 0
        self.killed.set()


def watched(slot_of: Callable[[], FakeSlot], settings: WatchdogSettings) -> tuple[FakeSlot, StatValues]:
    memory = mmap.mmap(-1, 1 << 20)
    stats = StatsWriter(memory)

    async def run() -> FakeSlot:
        slot = slot_of()
        watchdog = Watchdog(stats, lambda slot, hung: slot.hangs.append(hung))  # type: ignore[attr-defined]
        watchdog.settings = settings
        watchdog.watch(slot)  # type: ignore[arg-type]
        (task,) = watchdog._tasks
        await asyncio.wait_for(task, 20.0)
        return slot

    slot = asyncio.run(run())
    stats.flush()
    values = StatValues()
    StatsReader(memory).read_into(values)
    return slot, values


def test_an_answer_in_time_is_the_pulse_and_no_miss() -> None:
    slot, values = watched(lambda: FakeSlot(0.0), WatchdogSettings(miss_s=5.0))
    assert (slot.pulse.lag_ms, slot.pulse.active) == (7.4, 3)
    assert values.gauges["server.worker_0.loop_lag_ms"] == 7
    assert values.counters["server.worker_0.watchdog_miss"] == 0
    assert slot.stacks == 0


def test_late_answers_are_counted_for_the_worker_and_for_all_and_its_stack_is_shown() -> None:
    slot, values = watched(lambda: FakeSlot(0.3), WatchdogSettings(miss_s=0.05, mega_miss_s=0.1, kill_s=0.0))
    assert slot.stacks == 1
    assert not slot.killed.is_set()
    for prefix in ("server.worker_0", "workers"):
        assert values.counters[f"{prefix}.watchdog_miss"] == 1
        assert values.counters[f"{prefix}.watchdog_mega_miss"] == 1


def test_who_does_not_answer_within_the_kill_timeout_is_killed() -> None:
    slot, values = watched(lambda: FakeSlot(60.0), WatchdogSettings(miss_s=0.05, mega_miss_s=0.1, kill_s=0.5))
    assert slot.killed.is_set()
    assert values.gauges["server.worker_0.loop_lag_ms"] >= 400


def test_an_answer_between_the_stack_and_the_kill_saves_it() -> None:
    slot, _ = watched(lambda: FakeSlot(0.4, 0.0), WatchdogSettings(miss_s=0.05, mega_miss_s=0.1, kill_s=10.0))
    assert not slot.killed.is_set()
    assert slot.stacks == 1
    assert slot.hangs == [True, False]


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({}, WatchdogSettings()),
        ({"watchdogs": {"main_thread_watchdog": {"miss_timeout": "9s"}}}, WatchdogSettings()),
        (
            {
                "watchdogs": {
                    "worker_watchdog": {"miss_timeout": "0.5s", "megamiss_timeout": "2s", "kill_timeout": "3s"}
                }
            },
            WatchdogSettings(0.5, 2.0, 3.0),
        ),
        ({"watchdog": {"kill_timeout": "0s"}}, WatchdogSettings(kill_s=0.0)),
        ({"watchdog": {"max_kill_timeout_jitter": "1s"}}, WatchdogSettings(kill_s=DEFAULT_KILL_S, kill_jitter_s=1.0)),
    ],
)
def test_settings_are_envoys_fields(fields: dict[str, Any], settings: WatchdogSettings) -> None:
    assert WatchdogSettings.of_workers(bootstrap(**fields)) == settings

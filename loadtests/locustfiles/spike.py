"""Spike: 10 users, then 300 at once, then 10 again; the proxy must answer all of it and come back to rest."""

from __future__ import annotations

import os
import time

from locust import LoadTestShape, between, task

from loadtests.locustfiles.common import CheckedUser

CALM_USERS = 10
SPIKE_USERS = 300


class SpikeUser(CheckedUser):
    wait_time = between(0.05, 0.2)

    @task(3)
    def hello(self) -> None:
        self.small()

    @task(1)
    def headers(self) -> None:
        self.echo()


class Spike(LoadTestShape):
    """The middle third of the time is the spike."""

    def tick(self) -> tuple[int, float] | None:
        duration_s = float(os.environ["WORKERPROXY_LOAD_SECONDS"])
        passed = (time.perf_counter() - self.start_time) / duration_s
        if passed >= 1:
            return None
        return (SPIKE_USERS if 1 / 3 <= passed < 2 / 3 else CALM_USERS, SPIKE_USERS)

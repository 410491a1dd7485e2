"""Steady: 40 users, a mix of small requests, uploads and streams, on connections that stay open."""

from __future__ import annotations

from locust import between, task

from loadtests.locustfiles.common import CheckedUser


class SteadyUser(CheckedUser):
    wait_time = between(0.01, 0.1)

    @task(6)
    def hello(self) -> None:
        self.small()

    @task(4)
    def headers(self) -> None:
        self.echo()

    @task(2)
    def page(self) -> None:
        self.body(20_000)

    @task(2)
    def form(self) -> None:
        self.upload(10_240)

    @task(1)
    def events(self) -> None:
        self.streamed()

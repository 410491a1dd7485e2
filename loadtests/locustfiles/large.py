"""Large bodies: 8 users who download and upload megabytes, and check every byte that comes back."""

from __future__ import annotations

from locust import between, task

from loadtests.locustfiles.common import CheckedUser


class LargeUser(CheckedUser):
    wait_time = between(0.0, 0.05)

    @task(3)
    def download(self) -> None:
        self.body(1_000_000)

    @task(1)
    def big_download(self) -> None:
        self.body(20_000_000)

    @task(2)
    def big_upload(self) -> None:
        self.upload(5_000_000)

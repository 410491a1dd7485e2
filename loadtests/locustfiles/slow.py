"""Slow clients: 100 users who send their headers or bodies in drips, or read a megabyte through a small window.

None of them is slow enough to run into a time-out of the default configuration: every request must succeed, and the
quick user beside them must not notice.
"""

from __future__ import annotations

from locust import between, constant, task

from loadtests.locustfiles.common import CheckedUser
from loadtests.locustfiles.raw import RawUser, WrongAnswer, read_answer, request, send_slowly

PAUSE_S = 0.02
UPLOAD_BYTES = 50_000
DOWNLOAD_BYTES = 1_000_000


class SlowUser(RawUser):
    weight = 20
    wait_time = between(0.0, 0.2)

    @task
    def dripping_headers(self) -> None:
        def action() -> int:
            with self.connect() as connection:
                send_slowly(connection, request("/headers", "x-fill: " + "y" * 500), 50, PAUSE_S)
                return len(read_answer(connection))

        self.timed("headers in 50 drips", action)

    @task
    def dripping_body(self) -> None:
        def action() -> int:
            with self.connect() as connection:
                connection.sendall(request("/upload", f"content-length: {UPLOAD_BYTES}", method="POST"))
                send_slowly(connection, b"z" * UPLOAD_BYTES, 50, PAUSE_S)
                answer = read_answer(connection)
            if f'"bytes": {UPLOAD_BYTES}'.encode() not in answer:
                raise WrongAnswer("not all bytes arrived")
            return len(answer)

        self.timed("body in 50 drips", action)

    @task
    def slow_reader(self) -> None:
        def action() -> int:
            with self.connect(receive_buffer=4096) as connection:
                connection.sendall(request(f"/bytes/{DOWNLOAD_BYTES}"))
                answer = read_answer(connection, 16_384, PAUSE_S)
            if len(answer) != DOWNLOAD_BYTES:
                raise WrongAnswer(f"{len(answer)} bytes")
            return len(answer)

        self.timed("1 MB through a small window", action)


class QuickUser(CheckedUser):
    weight = 1
    wait_time = constant(0.05)

    @task
    def hello(self) -> None:
        self.small()

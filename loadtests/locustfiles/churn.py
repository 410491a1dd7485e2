"""Churn: 40 users whose connections never last: closed after one answer, or dropped in the middle of a body."""

from __future__ import annotations

from locust import between, task

from loadtests.locustfiles.raw import RawUser, WrongAnswer, read_answer, request

DROPPED_BYTES = 5_000_000


class ChurnUser(RawUser):
    wait_time = between(0.0, 0.02)

    @task(6)
    def one_request(self) -> None:
        def action() -> int:
            with self.connect() as connection:
                connection.sendall(request("/hello", "connection: close"))
                answer = read_answer(connection)
                if connection.recv(1):
                    raise WrongAnswer("more bytes after the answer")
            return len(answer)

        self.timed("one request, then close", action)

    @task(2)
    def client_closes(self) -> None:
        def action() -> int:
            with self.connect() as connection:
                connection.sendall(request("/hello"))
                return len(read_answer(connection))

        self.timed("one request, client closes", action)

    @task(1)
    def dropped_download(self) -> None:
        def action() -> int:
            with self.connect() as connection:
                connection.sendall(request(f"/bytes/{DROPPED_BYTES}"))
                start = connection.recv(65536)
            if not start.startswith(b"HTTP/1.1 200 "):
                raise WrongAnswer(start[:60].decode("latin-1"))
            return len(start)

        self.timed("download dropped in the middle", action)

    @task(1)
    def dropped_request(self) -> None:
        def action() -> int:
            with self.connect() as connection:
                connection.sendall(request("/upload", "content-length: 1000", method="POST") + b"half")
            return 0

        self.timed("request dropped in the middle", action)

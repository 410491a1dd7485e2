"""Operations: clients that do not stop while the proxy is operated on; each failed request counts with its kind.

Small requests on connections that stay and on new ones, answers and uploads that take more than a second. The clients
and the kinds of failure are those of ``tests/support``. Each failure goes into a file as well, for
``loadtests.operations`` to judge: it alone knows which worker was killed when.
"""

from __future__ import annotations

import os
import random
import time
from typing import Any, Final
from urllib.parse import urlsplit

from locust import User, between, task

from loadtests.locustfiles import report  # noqa: F401 - every scenario reports what it found
from tests.support.checked_connection import Ask, CheckedConnection, ExchangeError, Kind
from tests.support.ledger import Failure
from tests.support.load import echo_request, small_request, stream_request, upload_request

RENEW: Final = 0.02  # how often a client takes a new connection, so that none stays with one worker
AWAY_S: Final = 0.2  # before the next attempt while the proxy may be away
_FAILURES: Final = os.environ.get("WORKERPROXY_LOAD_FAILURES", os.devnull)
_ENDING: Final = os.environ.get("WORKERPROXY_LOAD_ENDING", "")  # a file that is there while the proxy may be away


class OperationsUser(User):
    """A user with one connection. What ``ask`` does is one entry in Locust's table."""

    abstract = True

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.port = urlsplit(self.host or "").port or 80
        self.connection: CheckedConnection | None = None

    def on_stop(self) -> None:
        self.drop()

    def drop(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def ask(self, name: str, request: Ask) -> None:
        started = time.perf_counter()
        failed: Exception | None = None
        try:
            self._connected().ask(request)
        except ExchangeError as error:
            if error.kind is Kind.REFUSED and _ENDING and os.path.exists(_ENDING):
                time.sleep(AWAY_S)
                return
            with open(_FAILURES, "a") as file:
                file.write(Failure.of(name, error).as_json() + "\n")
            failed = RuntimeError(error.kind.value)  # without the details, so that equal ones are counted together
        elapsed_ms = (time.perf_counter() - started) * 1000
        event: dict[str, Any] = {"request_type": "RAW", "name": name, "response_time": elapsed_ms}
        self.environment.events.request.fire(**event, response_length=0, exception=failed, context={})

    def _connected(self) -> CheckedConnection:
        """The open connection, if it still is, as any client looks; or a new one."""
        if self.connection is None or not self.connection.open or self.connection.ended():
            self.drop()
            self.connection = CheckedConnection(self.port)
        return self.connection


class KeepAliveUser(OperationsUser):
    weight = 6
    wait_time = between(0.02, 0.1)

    @task(4)
    def small(self) -> None:
        if random.random() < RENEW:
            self.drop()
        self.ask("small, keep-alive", small_request())

    @task(1)
    def headers(self) -> None:
        self.ask("headers, keep-alive", echo_request())


class NewConnectionUser(OperationsUser):
    weight = 2
    wait_time = between(0.02, 0.1)

    @task(1)
    def proxy_closes(self) -> None:
        self.ask("small, connection: close", small_request(last=True))

    @task(1)
    def client_closes(self) -> None:
        self.ask("small, new connection", small_request())
        self.drop()


class SlowUser(OperationsUser):
    weight = 4
    wait_time = between(0.0, 0.3)

    @task(2)
    def stream(self) -> None:
        self.ask("answer of 1 to 2 s", stream_request(random.uniform(1.0, 2.0)))

    @task(1)
    def upload(self) -> None:
        self.ask("upload of 1 to 2 s", upload_request(random.uniform(1.0, 2.0)))

    @task(1)
    def new_stream(self) -> None:
        self.drop()
        self.ask("answer of 1 to 2 s, new connection", stream_request(random.uniform(1.0, 2.0), last=True))

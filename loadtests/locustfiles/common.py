"""What the scenarios share: checks that an answer is whole and is the answer to this request and to no other."""

from __future__ import annotations

import itertools
import os
from typing import Any, Final

from locust import FastHttpUser

from loadtests.locustfiles import report  # noqa: F401 - every scenario reports what it found

_numbers = itertools.count()
BLOCK: Final = b"0123456789abcde\n"  # the demo origin cuts its bodies from repetitions of this


class CheckedUser(FastHttpUser):
    """A user that checks what comes back; a wrong answer is a failure with its reason."""

    abstract = True
    connection_timeout = 10.0
    network_timeout = 30.0

    def small(self) -> None:
        with self.client.get("/hello", catch_response=True) as response:
            expected = f"endpoint {header(response, 'x-demo-endpoint')} answers GET /hello\n"
            check(response, response.text == expected, "not the greeting")

    def echo(self) -> None:
        """The origin says which headers it got: they must be ours, with a number that nobody else has."""
        number = f"{os.getpid()}-{next(_numbers)}"
        headers = {"x-load-id": number, "accept": "application/json", "cookie": "a=1; b=2"}
        with self.client.get("/headers", headers=headers, catch_response=True) as response:
            check(response, f'"x-load-id": "{number}"' in (response.text or ""), "the answer to another request")

    def body(self, size: int) -> None:
        with self.client.get(f"/bytes/{size}", name=f"/bytes {size}", catch_response=True) as response:
            content = response.content or b""
            if check(response, len(content) == size, f"{len(content)} bytes instead of {size}"):
                check(response, content == (BLOCK * (size // 16 + 1))[:size], "bytes that are not the origin's")

    def upload(self, size: int) -> None:
        with self.client.post("/upload", data="x" * size, name=f"/upload {size}", catch_response=True) as response:
            check(response, f'"bytes": {size}' in (response.text or ""), "not all bytes arrived")

    def streamed(self) -> None:
        with self.client.get("/stream/10/1", catch_response=True) as response:
            lines = (response.text or "").splitlines()
            check(response, len(lines) == 10 and lines[-1].startswith("line 10 of 10 "), f"{len(lines)} lines of 10")


def header(response: Any, name: str) -> str:
    headers = response.headers
    return str(headers.get(name, "")) if headers else ""


def check(response: Any, good: bool, reason: str) -> bool:
    """Make the request a failure with a reason unless it was answered with 200 and is ``good``."""
    if response.status_code != 200:
        response.failure(f"status {response.status_code} ({response.error})")
    elif not good:
        response.failure(reason)
    return bool(good and response.status_code == 200)

"""What ``make run`` says to try."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.run_demo import HINTS, answers, urls
from tests.support.ports import free_port


def bootstrap(address: str) -> dict[str, Any]:
    socket_address = {"address": address, "port_value": 10000}
    admin = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 9901}}}
    return {"admin": admin, "static_resources": {"listeners": [{"address": {"socket_address": socket_address}}]}}


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:10000"),
        ("0.0.0.0", "http://127.0.0.1:10000"),
        ("::", "http://127.0.0.1:10000"),
        ("::1", "http://[::1]:10000"),
    ],
)
def test_urls_are_reachable_from_here(address: str, url: str) -> None:
    assert urls(bootstrap(address)) == (url, "http://127.0.0.1:9901")


def test_every_hint_is_filled_in() -> None:
    text = HINTS.format(proxy="http://p", admin="http://a", pid=1)
    assert "{" not in text
    assert text.count("http://p/") == 6


def test_a_closed_port_does_not_answer() -> None:
    assert not answers(f"http://127.0.0.1:{free_port()}/")

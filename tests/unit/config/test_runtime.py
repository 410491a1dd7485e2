"""Runtime keys: layers on top of each other, nested or dotted, and what counts as a number."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from google.protobuf.json_format import ParseDict

from workerproxy.config.runtime import Runtime


def runtime(*layers: dict[str, Any]) -> Runtime:
    named = [{"name": str(number), "static_layer": layer} for number, layer in enumerate(layers)]
    return Runtime(ParseDict({"layered_runtime": {"layers": [*named, {"name": "x", "admin_layer": {}}]}}, Bootstrap()))


def test_the_last_layer_that_sets_a_key_counts_nested_or_dotted() -> None:
    found = runtime({"a": {"b.c": 1, "d": 2}}, {"a.b": {"c": 3}}, {})
    assert (found.integer("a.b.c"), found.integer("a.d"), found.integer("a.b")) == (3, 2, None)


@pytest.mark.parametrize(
    ("value", "number"),
    [(0, 0), (7.0, 7), ("12", 12), (" 12 ", 12), (2.5, None), (-1, None), ("x", None), ("", None), (True, None)],
)
def test_whole_numbers_of_at_least_0_are_numbers(value: Any, number: int | None) -> None:
    assert runtime({"k": value}).integer("k") == number

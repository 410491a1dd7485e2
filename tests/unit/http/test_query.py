"""Query strings, as Envoy splits them."""

from __future__ import annotations

import pytest

from workerproxy.http.query import first_values


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        (b"", {}),
        (b"a=1&b=2", {b"a": b"1", b"b": b"2"}),
        (b"a=1&a=2", {b"a": b"1"}),
        (b"a", {b"a": b""}),
        (b"a=b=c", {b"a": b"b=c"}),
        (b"=v", {b"": b"v"}),
        (b"a&", {b"a": b""}),
        (b"&a", {b"": b"", b"a": b""}),
        (b"a%20b=c+d", {b"a%20b": b"c+d"}),
    ],
)
def test_the_first_value_of_each_parameter_counts(query: bytes, parameters: dict[bytes, bytes]) -> None:
    assert first_values(query) == parameters

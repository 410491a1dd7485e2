"""What makes a route the same one in another version of the configuration."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.router.build import found, request, table, table_of
from workerproxy.worker.router.route import Route

PREFIX = {"match": {"prefix": "/a"}, "route": {"cluster": "c"}}
NAMED = {**PREFIX, "name": "x"}


def has(before: dict[str, Any], after: list[dict[str, Any]]) -> bool:
    return table(after).has(found(table([before]), request("/a")))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (PREFIX, {**PREFIX, "route": {"cluster": "other", "timeout": "1s"}}),
        (PREFIX, {**PREFIX, "redirect": {"host_redirect": "h"}, "route": None}),
        (PREFIX, {**PREFIX, "route": {"weighted_clusters": {"clusters": [{"name": "c", "weight": 1}]}}}),
        (PREFIX, NAMED),
        (NAMED, PREFIX),
        (NAMED, {**NAMED, "match": {"prefix": "/other"}}),
        (PREFIX, {**PREFIX, "match": {"prefix": "/a", "runtime_fraction": {"default_value": {"numerator": 1}}}}),
    ],
)
def test_a_route_that_is_changed_is_there(before: dict[str, Any], after: dict[str, Any]) -> None:
    after = {name: value for name, value in after.items() if value is not None}
    assert has(before, [after])
    assert has(before, [{**PREFIX, "match": {"path": "/"}}, after])


@pytest.mark.parametrize(
    "after",
    [
        [],
        [{**PREFIX, "match": {"path": "/a"}}],
        [{**PREFIX, "match": {"prefix": "/a", "headers": [{"name": "x", "present_match": True}]}}],
        [{**NAMED, "name": "y", "match": {"prefix": "/"}}],
    ],
)
def test_a_route_whose_name_and_match_are_gone_is_gone(after: list[dict[str, Any]]) -> None:
    assert not has(PREFIX, after)
    assert not has(NAMED, after)


def test_a_route_belongs_to_its_virtual_host() -> None:
    hosts = [{"name": name, "domains": [name], "routes": [PREFIX]} for name in ("a", "b")]
    both = table_of(hosts)
    route = found(both, request("/a", "b"))
    assert both.has(route)
    assert table_of(hosts[1:]).has(route)
    assert not table_of(hosts[:1]).has(route)


def test_what_no_configuration_names_cannot_be_removed() -> None:
    assert table([]).has(Route())


@pytest.mark.parametrize(
    ("route", "label"),
    [
        (NAMED, "x"),
        (PREFIX, "prefix /a"),
        ({**PREFIX, "match": {"safe_regex": {"regex": "/a.*"}}}, "safe_regex /a.*"),
    ],
)
def test_a_route_is_called_by_its_name_or_its_match(route: dict[str, Any], label: str) -> None:
    assert found(table([route]), request("/a")).label == label

"""What a reload may change, and how it is called."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2
from google.protobuf import json_format

from workerproxy.main_thread.live_change import compare

BASE: dict[str, Any] = {
    "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}}},
    "static_resources": {
        "listeners": [
            {"name": "l", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 2}}},
            {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 3}}},
        ],
        "clusters": [{"name": "a"}, {"name": "b"}],
    },
}


def changed(change: str) -> dict[str, Any]:
    data = copy.deepcopy(BASE)
    exec(change, {"d": data, "r": data["static_resources"]})
    return data


def bootstrap(data: dict[str, Any]) -> Any:
    return json_format.ParseDict(data, bootstrap_pb2.Bootstrap())


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ("pass", []),
        ("r['clusters'][0]['connect_timeout'] = '1s'", ["cluster 'a' changed"]),
        ("r['clusters'][0]['name'] = 'c'", ["cluster 'a' removed", "cluster 'c' added"]),
        ("r['listeners'][0]['filter_chains'] = [{'name': 'x'}]", ["listener 'l' changed"]),
        ("d['node'] = {'id': 'n'}", ["bootstrap options changed"]),
    ],
)
def test_what_can_change_live(change: str, changes: list[str]) -> None:
    found = compare(bootstrap(BASE), bootstrap(changed(change)))
    assert (found.changes, found.refused) == (changes, [])


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ("d['admin']['address']['socket_address']['port_value'] = 9", ["admin: "]),
        ("r['listeners'][0]['address']['socket_address']['port_value'] = 9", ["listener 'l': its address"]),
        ("r['listeners'][0]['stat_prefix'] = 's'", ["listener 'l': its address or socket options"]),
        ("del r['listeners'][0]", ["listener 'l': it was removed"]),
        (
            "r['listeners'][1]['address']['socket_address']['port_value'] = 9",
            ["listener '127.0.0.1:3': it was removed", "listener '127.0.0.1:9': it is new"],
        ),
    ],
)
def test_what_is_refused_by_name(change: str, refused: list[str]) -> None:
    found = compare(bootstrap(BASE), bootstrap(changed(change)))
    assert len(found.refused) == len(refused)
    for line, start in zip(found.refused, refused, strict=True):
        assert line.startswith(start)
        assert "restart" in line

"""Versions and limit slots."""

from __future__ import annotations

from envoy.config.bootstrap.v3 import bootstrap_pb2
from google.protobuf import json_format

from workerproxy.control.board import MAX_ROWS
from workerproxy.main_thread.configuration import Configuration


def bootstrap(*clusters: str) -> bootstrap_pb2.Bootstrap:
    data = {
        "static_resources": {
            "clusters": [{"name": name} for name in clusters],
            "listeners": [{"address": {"socket_address": {"address": "127.0.0.1", "port_value": 80}}}],
        }
    }
    return json_format.ParseDict(data, bootstrap_pb2.Bootstrap())


def test_versions_count_up_from_one() -> None:
    configuration = Configuration()
    assert [configuration.new_version(bootstrap("a"), {}).version for _ in range(3)] == [1, 2, 3]


def test_a_cluster_keeps_its_slots_over_reloads() -> None:
    configuration = Configuration()
    first = configuration.new_version(bootstrap("a", "b"), {}).slots
    second = configuration.new_version(bootstrap("b", "c"), {}).slots
    assert len(set(first.values())) == len(first) == 16 + 2
    assert {key: slot for key, slot in second.items() if key.startswith("b/")} == {
        key: slot for key, slot in first.items() if key.startswith("b/")
    }
    assert set(second.values()).isdisjoint(slot for key, slot in first.items() if key.startswith("a/"))
    assert configuration.slots.used == 24 + 2
    for key in ("/listener", "127.0.0.1:80/listener"):  # of all listeners, and of the one there is
        assert first[key] == second[key]


def test_workers_are_given_a_name_for_every_listener_and_the_original_keeps_none() -> None:
    config = Configuration().new_version(bootstrap("a"), {})
    assert [one.name for one in config.listeners] == [""]
    sent = bootstrap_pb2.Bootstrap.FromString(config.serialized)
    assert [one.name for one in sent.static_resources.listeners] == ["127.0.0.1:80"]


def test_a_listener_with_exact_balance_has_a_slot_for_every_row_one_after_the_other() -> None:
    configuration = Configuration()
    message = bootstrap("a")
    message.static_resources.listeners[0].name = "l"
    message.static_resources.listeners[0].connection_balance_config.exact_balance.SetInParent()
    config = configuration.new_version(message, {"l": [1]})
    assert config.exact_balance
    first = config.slots["l/balance"]
    later = configuration.new_version(bootstrap("a", "b"), {})
    assert not later.exact_balance
    assert not set(later.slots.values()) & set(range(first, first + MAX_ROWS))


def test_a_successor_goes_on_from_the_slots_of_its_predecessor() -> None:
    old, new = Configuration(), Configuration()
    before = old.new_version(bootstrap("a", "b"), {}).slots
    new.slots.inherit(old.slots.known())
    after = new.new_version(bootstrap("b", "c"), {}).slots
    assert after["b/default/requests"] == before["b/default/requests"]
    assert after["c/default/requests"] not in before.values()

"""Messages: what is said is what is heard, and nothing else is accepted."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, get_type_hints

import pytest

from workerproxy.control import messages as m

SAMPLES: dict[Any, Any] = {
    int: 3,
    float: 1.5,
    bool: True,
    str: "text",
    bytes: b"\x00\xff{",
    list[str]: ["a", "b"],
    list[int]: [1, 2],
    dict[str, list[int]]: {"a": [1, 2]},
    dict[str, str]: {"a": "b"},
    dict[str, int]: {"a": 1},
    m.Hosts: [("127.0.0.1", 80, 0), ("::1", 81, 1)],
    dict[str, m.Hosts]: {"c": [("127.0.0.1", 80, 0)]},
    list[dict[str, Any]]: [{"name": "c", "hosts": [{"cx": 1}]}],
}


def sample(cls: type[m.Message]) -> m.Message:
    hints = get_type_hints(cls)
    return cls(**{one.name: SAMPLES[hints[one.name]] for one in fields(cls) if one.name != "fds"})


@pytest.mark.parametrize("cls", m.MESSAGES.values(), ids=lambda cls: cls.__name__)
def test_every_message_survives_the_wire(cls: type[m.Message]) -> None:
    message = sample(cls)
    heard = m.decode(cls.type_number, m.encode(message), [5])
    assert heard == message
    assert type(heard) is cls
    assert heard.fds == [5]


def test_every_message_is_said_by_one_side() -> None:
    assert {m.sender_of(cls) for cls in m.MESSAGES.values()} == {m.MAIN, m.WORKER, m.OLD_MAIN, m.NEW_MAIN}
    assert len({cls.type_number for cls in m.MESSAGES.values()}) == len(m.MESSAGES)


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(m.ProtocolError, match="unknown message type 999"):
        m.decode(999, b"\0\0\0\2{}", [])


def payload(data: object, blob: bytes = b"") -> bytes:
    text = json.dumps(data).encode()
    return len(text).to_bytes(4, "big") + text + blob


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({}, "fields"),
        ({"version": 1, "more": 2}, "fields"),
        ({"version": "1"}, "Commit.version"),
        ({"version": True}, "Commit.version"),
        ([1], "not an object"),
    ],
)
def test_fields_that_do_not_fit_are_refused(data: object, why: str) -> None:
    with pytest.raises(m.ProtocolError, match=why):
        m.decode(m.Commit.type_number, payload(data), [])


@pytest.mark.parametrize("data", [b"", b"\0\0\0\5{}", b"\0\0\0\2{]"])
def test_broken_payloads_are_refused(data: bytes) -> None:
    with pytest.raises(m.ProtocolError):
        m.decode(m.Commit.type_number, data, [])


def test_wrong_pairs_in_hosts_are_refused() -> None:
    with pytest.raises(m.ProtocolError, match=r"HostsUpdate\.hosts"):
        m.decode(m.HostsUpdate.type_number, payload({"cluster": "c", "hosts": [["127.0.0.1"]]}), [])

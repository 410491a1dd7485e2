"""Every codec rule: the bytes of a fixture become the messages beside it, however the reads cut them."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from tests.unit.codec import cases
from tests.unit.codec.cases import Case

ALL = cases.load()
ENDED = [
    case
    for case in ALL
    if case.expected["messages"] and case.expected["messages"][-1].get("complete", True) and not case.expected["failed"]
]
SHORT = [case for case in ALL if len(case.data) <= 1024]
NEXT_REQUEST = b"GET /after HTTP/1.1\r\nhost: z\r\n\r\n"


def expected(case: Case) -> dict[str, object]:
    return {key: case.expected[key] for key in ("messages", "failed")}


def cut(data: bytes, *places: int) -> list[bytes]:
    return [data[start:end] for start, end in pairwise([0, *sorted(places), len(data)]) if start < end]


@pytest.mark.parametrize("case", ALL, ids=lambda case: f"{case.side}/{case.name}")
def test_whole(case: Case) -> None:
    size = case.expected.get("read_size", len(case.data) or 1)
    assert cases.run(case, [case.data[start : start + size] for start in range(0, len(case.data), size)]) == expected(
        case
    )


@pytest.mark.parametrize("case", ALL, ids=lambda case: f"{case.side}/{case.name}")
def test_whole_by_callbacks(case: Case) -> None:
    size = case.expected.get("read_size", len(case.data) or 1)
    parts = [case.data[start : start + size] for start in range(0, len(case.data), size)]
    assert cases.run(case, parts, bulk=False) == expected(case)


@pytest.mark.parametrize("case", ALL, ids=lambda case: f"{case.side}/{case.name}")
def test_byte_by_byte(case: Case) -> None:
    size = 1 if len(case.data) <= 4096 else 997
    parts = [case.data[start : start + size] for start in range(0, len(case.data), size)]
    assert cases.run(case, parts) == expected(case)


@pytest.mark.parametrize("case", SHORT, ids=lambda case: f"{case.side}/{case.name}")
def test_cut_once_anywhere(case: Case) -> None:
    for place in range(1, len(case.data)):
        assert cases.run(case, cut(case.data, place)) == expected(case), place


@pytest.mark.parametrize("case", SHORT, ids=lambda case: f"{case.side}/{case.name}")
def test_cut_twice(case: Case) -> None:
    places = random.Random(case.name)
    for _ in range(40):
        pair = places.randint(0, len(case.data)), places.randint(0, len(case.data))
        assert cases.run(case, cut(case.data, *pair)) == expected(case), pair


@pytest.mark.parametrize("case", ENDED, ids=lambda case: f"{case.side}/{case.name}")
def test_with_trailing_data(case: Case) -> None:
    """What follows a message changes nothing in it, and is read only where the connection goes on."""
    before = case.expected["messages"]
    last = before[-1]
    for parts in ([case.data + NEXT_REQUEST], [case.data, NEXT_REQUEST]):
        after = cases.run(case, parts)
        if case.side == "response":
            surplus = last.get("keep_alive", True) or last["status"] < 200
            assert after["failed"] == surplus
            continue
        assert after["messages"][: len(before)] == before
        more = [{"method": "GET", "path": "/after", "authority": "z"}] if last.get("keep_alive", True) else []
        assert after["messages"][len(before) :] == more


def test_there_are_cases_for_both_sides() -> None:
    assert sum(case.side == "request" for case in ALL) >= 300
    assert sum(case.side == "response" for case in ALL) >= 150


def test_names_are_plain() -> None:
    assert all(path.with_suffix(".expected.json").exists() for path in cases.FIXTURES.glob("*/*.http"))
    assert len(list(cases.FIXTURES.glob("*/*.json"))) == len(ALL)

"""JSON formats. ``NUMBERS`` and the lines of the first tests are what Envoy 1.40 wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.http.build import finished
from workerproxy.http.formatter import FormatError
from workerproxy.http.json_format import compile_json_format
from workerproxy.http.json_text import escape, integer, json_bytes, number

STRUCTURE: dict[str, Any] = {
    "b": "x%REQ(:PATH)%y%REQ(NOPE)%",
    "a": {
        "z": 1.0,
        "y": 1.5,
        "x": [1.0, "%RESPONSE_CODE%", None, True, "l", {"q": "%REQ(NOPE)%"}],
        "big": 123456789012.0,
        "neg": -3.0,
        "e": 1e30,
        "f": 0.1,
    },
    "pct": "100%%",
    "lit": 'q"\\\n\té',
    "empty": "",
    "é": "%REQ(X-U)%",
    "env": "%ENVIRONMENT(WORKERPROXY_TEST_UNSET)%",
    "host": "h%RESPONSE_CODE%",
    "qp": "%QUERY_PARAM(q)%",
    "two": "%REQ(NOPE)%%REQ(NOPE)%",
    "es": {},
    "el": [],
    "flags": "%RESPONSE_FLAGS%",
    "null": None,
}
HEADERS = (("x-u", '\xff"\\\t/\xc3\xa9'),)
TAIL = (
    '"flags":"-","host":"h200","lit":"q\\"\\\\\\n\\té",{null}"pct":"100%","qp":"a\\nb\\"\\u0000x","two":"{two}",'
    '"é":"\\u00ff\\u0022\\u005c\\u0009/\\u00c3\\u00a9"}}\n'
)


def test_a_structure_is_one_line_with_sorted_keys_and_typed_values() -> None:
    line = compile_json_format(STRUCTURE).format(finished("/p?q=a%0ab%22%00x", HEADERS))
    assert line == (
        '{"a":{"big":123456789012,"e":1e+30,"f":0.1,"neg":-3,"x":[1,200,null,true,"l",{"q":null}],"y":1.5,"z":1},'
        '"b":"x/p?q=a%0ab%22%00xy-","el":[],"empty":"","env":"-","es":{},' + TAIL.format(null='"null":null,', two="--")
    )


def test_what_is_null_or_an_empty_object_can_be_left_out() -> None:
    made = compile_json_format(STRUCTURE, omit_empty_values=True)
    assert made.format(finished("/p?q=a%0ab%22%00x", HEADERS)) == (
        '{"a":{"big":123456789012,"e":1e+30,"f":0.1,"neg":-3,"x":[1,200,true,"l"],"y":1.5,"z":1},'
        '"b":"x/p?q=a%0ab%22%00xy","el":[],"empty":"","env":"-",' + TAIL.format(null="", two="")
    )


@pytest.mark.parametrize(
    ("structure", "line"),
    [
        ({"m": {"a": {"b": "%REQ(NOPE)%", "c": None}}, "n": None}, "{}"),
        ({"l": ["%REQ(NOPE)%"], "ll": [[]], "s": ["%REQ(NOPE)%", {"k": "%REQ(NOPE)%"}, ["%REQ(NOPE)%"]]},
         '{"l":[],"ll":[[]],"s":[[]]}'),
        ({}, "{}"),
        ({"n": [None]}, '{"n":[]}'),
        ({"c": "%RESPONSE_CODE%"}, '{"c":200}'),
    ],
)  # fmt: skip
def test_omitting_reaches_into_what_is_nested(structure: dict[str, Any], line: str) -> None:
    assert compile_json_format(structure, omit_empty_values=True).format(finished()) == line + "\n"


def test_operators_keep_their_type() -> None:
    info = finished()
    info.bytes_sent = 100_000
    info.dynamic_metadata = {"ns": {"list": [1, 2.5, {"b": "é", "a": None}], "flag": True}}
    structure = {
        "sent": "%BYTES_SENT%",
        "port": "%UPSTREAM_LOCAL_PORT%",
        "none": "%COMMON_DURATION(DS_RX_BEG:US_HS_END)%",
        "list": "%DYNAMIC_METADATA(ns:list)%",
        "flag": "%DYNAMIC_METADATA(ns:flag)%",
        "both": "%DYNAMIC_METADATA(ns:flag)%%BYTES_SENT%",
    }
    assert compile_json_format(structure).format(info) == (
        '{"both":"true100000","flag":true,"list":[1,2.5,{"a":null,"b":"é"}],"none":null,"port":37488,"sent":1e+05}\n'
    )


def test_a_structure_without_operators_is_constant() -> None:
    assert compile_json_format({}).constant == b"{}\n"
    assert compile_json_format({"b": [1.0], "a": {}}).constant == b'{"a":{},"b":[1]}\n'


def test_a_bad_operator_anywhere_is_an_error() -> None:
    for omit in (False, True):
        with pytest.raises(FormatError):
            compile_json_format({"a": {"b": ["%NOPE%"]}}, omit_empty_values=omit)


NUMBERS = {
    1e20: "1e+20",
    1234567.125: "1234567.125",
    -0.0: "-0",
    1e-7: "1e-07",
    100000.0: "1e+05",
    12345678901234567890.0: "12345678901234567168",
    1e16: "1e+16",
    1e22: "1e+22",
    3.0000001: "3.0000001",
    123456789012.0: "123456789012",
    1e30: "1e+30",
    0.1: "0.1",
    -3.0: "-3",
}


@pytest.mark.parametrize(("value", "text"), NUMBERS.items())
def test_numbers_are_written_as_envoy_writes_them(value: float, text: str) -> None:
    assert number(value).decode() == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_as_itself(value: float) -> None:
    assert float(number(value)) == value


@given(st.integers(min_value=-(2**53), max_value=2**53))
def test_an_integer_is_written_as_the_double_it_is(value: int) -> None:
    assert integer(value) == number(float(value))


@given(st.binary())
def test_an_escaped_value_is_always_valid_json(value: bytes) -> None:
    text = json.loads(b'"%b"' % escape(value))
    try:
        assert text == value.decode()
    except UnicodeDecodeError:
        assert text == value.decode("latin-1")


def test_what_is_no_number_is_null() -> None:
    assert json_bytes({"nan": float("nan"), "bytes": b"\xff", "set": frozenset()}) == (
        b'{"bytes":"\\u00ff","nan":null,"set":"frozenset()"}'
    )

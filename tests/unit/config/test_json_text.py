"""JSON as protobuf's reader takes it, with places."""

from __future__ import annotations

import pytest

from tests.unit.config.test_yaml_text import plain
from workerproxy.config.json_text import read_json


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{}", {}),
        (' {"a": [1, -1.5e3, true, false, null]} ', {"a": [("number", "1"), ("number", "-1.5e3"), True, False, None]}),
        ('{"a": "yes", "b": "5"}', {"a": "yes", "b": "5"}),
        ('{"a": "\\u00e9\\ud83d\\ude00\\n\\/"}', {"a": "é😀\n/"}),
        ("{'a': 'b', c: \"d\",}", {"a": "b", "c": "d"}),
        ('{"a": [1,]}', {"a": [("number", "1")]}),
        ('{"a": "x\ny"}', {"a": "x\ny"}),
        ('["a\\\'b"]', ["a'b"]),
    ],
)
def test_values(text: str, value: object) -> None:
    document = read_json("f.json", text)
    assert document.errors == []
    assert plain(document.root) == value


def test_nodes_know_where_they_begin() -> None:
    root = read_json("f.json", '{\n  "a": [1,\n   22]\n}').root
    assert root is not None
    entry = root.value[0]
    assert (entry.line, entry.column, entry.node.line, entry.node.column) == (2, 3, 2, 8)
    assert (entry.node.value[1].line, entry.node.value[1].column) == (3, 4)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "f.json:1:1: the text is empty"),
        ("// x\n{}", "f.json:1:1: not valid JSON: unexpected '/'; JSON has no comments"),
        ('{"a": 01}', "f.json:1:7: not valid JSON: unexpected '0'"),
        ('{"a": .5}', "f.json:1:7: not valid JSON: unexpected '.'"),
        ('{"a": 1.}', "f.json:1:7: not valid JSON: unexpected '1'"),
        ('{"a": NaN}', "f.json:1:7: not valid JSON: expected a value, found 'NaN'"),
        ('{"a": "x}', "f.json:1:7: not valid JSON: unexpected '\"'; the string does not end"),
        ('{"a": "\\q"}', "f.json:1:7: not valid JSON: unknown escape '\\q' in a string"),
        ('{"a": "\\ud800"}', "f.json:1:7: not valid JSON: half of a surrogate pair in a string"),
        ('{"a" 1}', "f.json:1:6: not valid JSON: expected ':', found '1'"),
        ('{"a": 1', "f.json:1:8: not valid JSON: expected ',', found 'the end of the text'"),
        ("{,}", "f.json:1:2: not valid JSON: expected a key, found ','"),
        ("{}\n{}", "f.json:2:1: more text after the end of the JSON value"),
        ('{"a": 1,\n "a": 2}', "f.json:2:2: 'a' is already given on line 1"),
        ("[" * 2000, "f.json:1:101: nested more than 100 levels deep"),
        ("\ufeff{}", "f.json:1:1: not valid JSON: unexpected '\\ufeff'"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(text: str, error: str) -> None:
    document = read_json("f.json", text)
    assert document.root is None
    assert [str(found) for found in document.errors] == [error]

"""YAML as Envoy's reader understands it. Each expected value was seen in the real Envoy."""

from __future__ import annotations

from typing import Any

import pytest

from workerproxy.config.document import LIST, MAP, NUMBER, Node
from workerproxy.config.yaml_text import is_plain_string, read_yaml


def plain(node: Node | None) -> Any:
    """A node as Python data; numbers as ("number", digits)."""
    assert node is not None
    if node.kind == LIST:
        return [plain(item) for item in node.value]
    if node.kind == MAP:
        return {entry.key: plain(entry.node) for entry in node.value}
    return ("number", node.value) if node.kind == NUMBER else node.value


def value_of(text: str) -> Any:
    document = read_yaml("f.yaml", f"x: {text}\n")
    assert document.errors == []
    return plain(document.root)["x"]


@pytest.mark.parametrize("word", ["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"])
def test_words_that_are_true(word: str) -> None:
    assert value_of(word) is True


@pytest.mark.parametrize("word", ["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"])
def test_words_that_are_false(word: str) -> None:
    assert value_of(word) is False


@pytest.mark.parametrize("word", ["", "~", "null", "Null", "NULL"])
def test_words_that_are_null(word: str) -> None:
    assert value_of(word) is None


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("0", "0"),
        ("5", "5"),
        ("+5", "5"),
        ("-5", "-5"),
        ("-0", "0"),
        ("0x10", "16"),
        ("0X1f", "31"),
        ("-0x10", "-16"),
        ("017", "15"),
        ("2147483647", "2147483647"),
        ("-2147483648", "-2147483648"),
        ("!!str 5", "5"),
        ("!!int 5", "5"),
        ("!any 5", "5"),
        ('!!str "5"', "5"),
    ],
)
def test_integers_that_fit_32_bits_are_numbers(text: str, digits: str) -> None:
    assert value_of(text) == ("number", digits)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yEs", "yEs"),
        ("nUll", "nUll"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("0o17", "0o17"),
        ("08", "08"),
        ("1_000", "1_000"),
        ("5.0", "5.0"),
        ("1e3", "1e3"),
        (".5", ".5"),
        (".inf", ".inf"),
        ("0x", "0x"),
        ("0b11", "0b11"),
        ("5 5", "5 5"),
        ('"5"', "5"),
        ("'yes'", "yes"),
        ("! 5", "5"),
        ("!!null x", "x"),
        ("|-\n  abc", "abc"),
        (">-\n  a\n  b", "a b"),
        ('"\\u00e9"', "é"),
        ("<<", "<<"),
        ("=", "="),
        ("2147483648", "2147483648"),
        ("0xFFFFFFFF", "4294967295"),
        ("9223372036854775808", "9223372036854775808"),
    ],
)
def test_everything_else_is_a_string(text: str, value: str) -> None:
    assert value_of(text) == value


def test_collections_nest_and_keep_their_order() -> None:
    assert value_of("{b: [1, {c: }], a: []}") == {"b": [("number", "1"), {"c": None}], "a": []}
    assert list(value_of("{b: 1, a: 2}")) == ["b", "a"]


def test_keys_are_their_text() -> None:
    assert value_of("{5: a, yes: b, ~: c}") == {"5": "a", "yes": "b", "null": "c"}


def test_an_ignored_key_is_dropped_but_its_anchors_count() -> None:
    document = read_yaml("f.yaml", "!ignore base: &a {x: 1}\nuse: *a\n? !ignore other\n: 2\n")
    assert plain(document.root) == {"use": {"x": ("number", "1")}}


def test_a_merge_key_is_an_ordinary_key() -> None:
    assert value_of("{<<: {a: b}}") == {"<<": {"a": "b"}}


def test_of_equal_keys_the_last_one_counts_with_a_warning() -> None:
    document = read_yaml("f.yaml", "a: 1\nb: 2\na: 3\n")
    assert plain(document.root) == {"b": ("number", "2"), "a": ("number", "3")}
    assert [str(warning) for warning in document.warnings] == [
        "f.yaml:3:1: 'a' is already given on line 1; this later one counts, as in Envoy"
    ]


def test_only_the_first_document_is_read() -> None:
    assert plain(read_yaml("f.yaml", "---\na: b\n---\n[").root) == {"a": "b"}


def test_a_byte_order_mark_is_skipped() -> None:
    assert plain(read_yaml("f.yaml", "\ufeffa: b").root) == {"a": "b"}


def test_nodes_know_where_they_begin() -> None:
    root = read_yaml("f.yaml", "a:\n- x: 1\n  yy: [2, 33]\n").root
    assert root is not None
    inner = root.value[0].node.value[0]
    entry = inner.value[1]
    assert (inner.line, inner.column) == (2, 3)
    assert (entry.line, entry.column, entry.node.line, entry.node.column) == (3, 3, 3, 7)
    assert (entry.node.value[1].line, entry.node.value[1].column) == (3, 11)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "f.yaml:1:1: the text is empty; expected a mapping such as 'static_resources: ...'"),
        ("# only this\n", "f.yaml:1:1: the text is empty; expected a mapping such as 'static_resources: ...'"),
        ("null\n", "f.yaml:1:1: the text is empty; expected a mapping such as 'static_resources: ...'"),
        ("a: *b", "f.yaml:1:4: the alias '*b' names an anchor that is not defined before it"),
        ("a: &a [*a]", "f.yaml:1:8: the alias '*a' stands inside what it names"),
        ("[a]: 1", "f.yaml:1:1: a key must be a plain name, not a list"),
        ("a: " + "[" * 150, "f.yaml:1:103: nested more than 100 levels deep"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(text: str, error: str) -> None:
    document = read_yaml("f.yaml", text)
    assert document.root is None
    assert [str(found) for found in document.errors] == [error]


def test_tabs_for_indentation_get_a_hint() -> None:
    (error,) = read_yaml("f.yaml", "a:\n\tb: 1\n").errors
    assert (error.position.line, error.position.column) == (2, 1)
    assert error.hint == "YAML is indented with spaces, not with tabs"


@pytest.mark.parametrize("text", ['a: "\x00"', "a: 'x", "{a: 1", "a: b: c", "- a\nb: c", "@a", "a: \x07"])
def test_broken_yaml_is_one_error_on_a_line_of_the_text(text: str) -> None:
    document = read_yaml("f.yaml", text)
    assert document.root is None
    assert len(document.errors) == 1
    assert document.errors[0].message.startswith("not valid YAML: ")
    assert document.errors[0].position.line in (1, 2)


def test_aliases_of_aliases_cannot_grow_without_bound() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]" for i in range(9)]
    (error,) = read_yaml("f.yaml", "\n".join(lines)).errors
    assert error.message.startswith("more than 500000 values")


@pytest.mark.parametrize(("text", "expected"), [("abc", True), ("5s", True), ("yes", False), ("", False), ("7", False)])
def test_strings_that_need_no_quotes(text: str, expected: bool) -> None:
    assert is_plain_string(text) is expected


def test_nesting_too_deep_for_the_parser_itself_is_said_in_the_same_words() -> None:
    document = read_yaml("f.yaml", "a: " + "[" * 5000)
    assert document.root is None
    (error,) = document.errors
    assert str(error).endswith(": nested more than 100 levels deep")

"""Regular expressions: full matches and rewrites over bytes."""

from __future__ import annotations

import pytest

from workerproxy.http.regex import RegexError, full_match, rewrite


def test_a_match_is_of_the_whole_text() -> None:
    match = full_match("/a[0-9]+")
    assert match(b"/a12")
    assert not match(b"/a12/")
    assert not match(b"x/a12")


def test_text_that_is_no_utf8_matches_no_dot() -> None:
    assert full_match("a.")("aé".encode())
    assert not full_match("a.")(b"a\xff")


def test_matching_takes_linear_time() -> None:
    assert not full_match("(a*)*(a*)*b")(b"a" * 20_000)


@pytest.mark.parametrize(
    ("pattern", "substitution", "value", "expected"),
    [
        ("a", "<\\0>", b"bab", b"b<a>b"),
        ("(a)(x)?", "\\2\\1\\\\", b"a", b"a\\"),
        ("x*", "-", b"ab", b"-a-b-"),
        ("^/v1/", "/", b"/v1/v1/", b"/v1/"),
        ("é", "e", "né".encode(), b"ne"),
        ("a", "b", b"\xff", b"\xff"),
    ],
)
def test_rewrites_replace_every_match(pattern: str, substitution: str, value: bytes, expected: bytes) -> None:
    assert rewrite(pattern, substitution)(value) == expected


@pytest.mark.parametrize(
    ("pattern", "substitution"), [("(", ""), ("a(?=b)", ""), ("(a)", "\\2"), ("a", "\\x"), ("a", "b\\")]
)
def test_what_re2_does_not_take_is_refused(pattern: str, substitution: str) -> None:
    with pytest.raises(RegexError):
        rewrite(pattern, substitution)


def test_a_program_that_is_too_large_is_refused_where_a_size_is_given() -> None:
    full_match("a{100}")
    with pytest.raises(RegexError, match="program size"):
        full_match("a{100}", max_program_size=50)

"""Regular expressions in linear time (RE2, as Envoy's), over bytes: full matches and rewrites.

Compiled when a configuration is built; what comes out runs per request. Envoy's name: ``CompiledGoogleReMatcher``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import re2

Match = Callable[[bytes], Any]  # truthy when the whole text matches
Rewrite = Callable[[bytes], bytes]

_REFERENCE: Final = re.compile(rb"\\(.?)", re.DOTALL)


class RegexError(ValueError):
    """A pattern or a substitution that RE2 does not take; the text says why."""


def _checked(pattern: str, max_program_size: int | None) -> tuple[Any, Any]:
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern.encode("utf-8", "surrogateescape"), options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise RegexError(f"{pattern!r} is no valid regular expression (RE2): {text}") from None
    if max_program_size is not None and compiled.programsize > max_program_size:
        raise RegexError(
            f"{pattern!r} has an RE2 program size of {compiled.programsize}; max_program_size is {max_program_size}"
        )
    return compiled, options


def full_match(pattern: str, max_program_size: int | None = None) -> Match:
    """A test whether all of a text matches. Raises ``RegexError``.

    A set of one pattern, because its match call costs half of what ``fullmatch`` of a pattern does.
    """
    _, options = _checked(pattern, max_program_size)
    patterns = re2.Set.FullMatchSet(options)
    patterns.Add(pattern.encode("utf-8", "surrogateescape"))
    patterns.Compile()
    match: Match = patterns.Match
    return match


def rewrite(pattern: str, substitution: str, max_program_size: int | None = None) -> Rewrite:
    """Replace every match in a text; ``\\0`` to ``\\9`` in ``substitution`` are groups, ``\\\\`` is a backslash.

    Envoy's field: ``RegexMatchAndSubstitute``. Raises ``RegexError``.
    """
    compiled, _ = _checked(pattern, max_program_size)
    pieces = _substitution(substitution, compiled.groups)
    if all(isinstance(piece, bytes) for piece in pieces):
        text = b"".join([piece for piece in pieces if isinstance(piece, bytes)])

        def expand(match: Any) -> bytes:
            return text
    else:

        def expand(match: Any) -> bytes:
            return b"".join([p if isinstance(p, bytes) else match.group(p) or b"" for p in pieces])

    return lambda value: compiled.sub(expand, value)


def _substitution(text: str, groups: int) -> list[bytes | int]:
    raw = text.encode("utf-8", "surrogateescape")
    pieces: list[bytes | int] = []
    position = 0
    for match in _REFERENCE.finditer(raw):
        pieces.append(raw[position : match.start()])
        position = match.end()
        if match[1] == b"\\":
            pieces.append(b"\\")
        elif not match[1].isdigit():
            raise RegexError(f"{text!r}: a backslash in a substitution is followed by a digit or a backslash")
        elif int(match[1]) > groups:
            raise RegexError(f"{text!r} refers to group {int(match[1])}; the regular expression has {groups}")
        else:
            pieces.append(int(match[1]))
    return [*pieces, raw[position:]]

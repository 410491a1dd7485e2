"""A configuration text as a tree of plain nodes, each with its place. What YAML and JSON have in common.

``parse`` picks the reader; ``yaml_text`` and ``json_text`` hold the rules of each language, as Envoy reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from workerproxy.config.errors import DUPLICATE, SYNTAX, ConfigError, Position

NULL: Final = "null"
BOOL: Final = "a boolean"
NUMBER: Final = "a number"
STRING: Final = "a string"
LIST: Final = "a list"
MAP: Final = "a mapping"

# Protobuf's own limit for JSON (json_internal::ParseOptions::recursion_depth); Envoy's binary answers the same.
MAX_DEPTH: Final = 100
# A YAML alias can name a list of aliases: bounds what a small text may grow to.
MAX_NODES: Final = 500_000


class Node:
    """One value. ``value`` by ``kind``: None, bool, str (the digits), str, list of Node, list of Entry."""

    __slots__ = ("column", "kind", "line", "value")

    def __init__(self, kind: str, value: Any, line: int, column: int) -> None:
        self.kind = kind
        self.value = value
        self.line = line
        self.column = column

    def describe(self) -> str:
        """The value in a few words, for "found ..."."""
        if self.kind == BOOL:
            return "true" if self.value else "false"
        if self.kind == NUMBER:
            return f"the number {self.value}"
        if self.kind == STRING:
            return f"the string {shorten(self.value)}"
        return self.kind


class Entry:
    """One key of a mapping and its value."""

    __slots__ = ("column", "key", "line", "node")

    def __init__(self, key: str, line: int, column: int, node: Node) -> None:
        self.key = key
        self.line = line
        self.column = column
        self.node = node


@dataclass(slots=True)
class Document:
    """A parsed text: its root (None when it has errors) and what there is to say about it."""

    file: str
    root: Node | None = None
    errors: list[ConfigError] = field(default_factory=list)
    warnings: list[ConfigError] = field(default_factory=list)

    def syntax_error(self, line: int, column: int, message: str, hint: str = "") -> None:
        self.errors.append(ConfigError(SYNTAX, Position(self.file, line, column), "", message, hint=hint))

    def duplicate(self, line: int, column: int, key: str, first_line: int) -> None:
        """A key came twice in one mapping: Envoy takes the later one without a word, so it is a warning here."""
        message = f"{key!r} is already given on line {first_line}; this later one counts, as in Envoy"
        self.warnings.append(ConfigError(DUPLICATE, Position(self.file, line, column), "", message))


class SyntaxProblem(Exception):
    """Raised inside the readers; the text has no tree. Never leaves this package."""

    def __init__(self, line: int, column: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.line = line
        self.column = column
        self.message = message
        self.hint = hint


def shorten(text: str, limit: int = 60) -> str:
    """``text`` quoted, cut to about ``limit`` characters."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")

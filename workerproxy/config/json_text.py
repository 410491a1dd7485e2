"""JSON text -> document tree, as protobuf's own JSON reader understands it (it is what Envoy uses for ``.json``).

Beyond RFC 8259 it takes, as that reader does: single-quoted strings, unquoted keys, a comma after the last element,
and raw line breaks in strings. It refuses comments, ``NaN``, leading zeros, and text after the end; and, other than
that reader, a key that comes twice in one object.
"""

from __future__ import annotations

import bisect
import re
from typing import Final

from workerproxy.config.document import (
    BOOL,
    LIST,
    MAP,
    MAX_DEPTH,
    MAX_NODES,
    NULL,
    NUMBER,
    STRING,
    Document,
    Entry,
    Node,
    SyntaxProblem,
)

_TOKEN: Final = re.compile(
    r"""[ \t\r\n]*(?:
        (?P<mark>[{}\[\],:])
      | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![0-9A-Za-z_.+-]))
      | (?P<word>[A-Za-z_$][A-Za-z0-9_$]*)
      | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "/": "/", "\\": "\\", '"': '"', "'": "'"}
_WORDS: Final = {"true": (BOOL, True), "false": (BOOL, False), "null": (NULL, None)}


def read_json(file: str, text: str) -> Document:
    """The value in ``text``; on a syntax error ``errors`` has one entry and ``root`` is None."""
    document = Document(file)
    try:
        document.root = _Reader(text).read()
    except SyntaxProblem as problem:
        document.syntax_error(problem.line, problem.column, problem.message, problem.hint)
    return document


class _Reader:
    """Reads one text, token by token, recursive to ``MAX_DEPTH`` levels."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._position = 0  # behind the current token
        self._kind = ""
        self._token = ""
        self._at = 0  # where the current token begins
        self._nodes = 0

    def read(self) -> Node:
        self._advance()
        if self._kind == "end":
            raise self._problem("the text is empty")
        node = self._value(0)
        if self._kind != "end":
            raise self._problem("more text after the end of the JSON value")
        return node

    def _advance(self) -> None:
        match = _TOKEN.match(self._text, self._position)
        if match is None:
            self._at = len(self._text) - len(self._text[self._position :].lstrip(" \t\r\n"))
            raise self._problem(f"not valid JSON: unexpected {self._text[self._at]!r}", self._hint())
        self._kind = match.lastgroup or ""
        self._token = match[self._kind]
        self._at = match.start(self._kind)
        self._position = match.end()

    def _hint(self) -> str:
        rest = self._text[self._at : self._at + 2]
        if rest in ("//", "/*") or rest[:1] == "#":
            return "JSON has no comments"
        if rest[:1] in ("'", '"'):
            return "the string does not end"
        return ""

    def _value(self, depth: int) -> Node:
        line, column = self._place(self._at)
        kind, token = self._kind, self._token
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._problem(f"more than {MAX_NODES} values")
        if kind == "mark" and token in "{[":
            if depth >= MAX_DEPTH:
                raise self._problem(f"nested more than {MAX_DEPTH} levels deep")
            return self._map(line, column, depth) if token == "{" else self._list(line, column, depth)
        if kind == "string":
            node = Node(STRING, self._unescape(token), line, column)
        elif kind == "number":
            node = Node(NUMBER, token, line, column)
        elif kind == "word" and token in _WORDS:
            node = Node(*_WORDS[token], line, column)
        else:
            raise self._problem(f"not valid JSON: expected a value, found {token or 'the end of the text'!r}")
        self._advance()
        return node

    def _list(self, line: int, column: int, depth: int) -> Node:
        items: list[Node] = []
        self._advance()
        while not self._is("]"):
            items.append(self._value(depth + 1))
            if not self._is("]"):
                self._expect(",")
        self._advance()
        return Node(LIST, items, line, column)

    def _map(self, line: int, column: int, depth: int) -> Node:
        entries: list[Entry] = []
        seen: dict[str, Entry] = {}
        self._advance()
        while not self._is("}"):
            entry = self._entry(depth)
            earlier = seen.get(entry.key)
            if earlier is not None:
                raise SyntaxProblem(entry.line, entry.column, f"{entry.key!r} is already given on line {earlier.line}")
            seen[entry.key] = entry
            entries.append(entry)
            if not self._is("}"):
                self._expect(",")
        self._advance()
        return Node(MAP, entries, line, column)

    def _entry(self, depth: int) -> Entry:
        line, column = self._place(self._at)
        if self._kind == "string":
            key = self._unescape(self._token)
        elif self._kind == "word":
            key = self._token
        else:
            raise self._problem(f"not valid JSON: expected a key, found {self._token or 'the end of the text'!r}")
        self._advance()
        self._expect(":")
        return Entry(key, line, column, self._value(depth + 1))

    def _is(self, mark: str) -> bool:
        return self._kind == "mark" and self._token == mark

    def _expect(self, mark: str) -> None:
        if not self._is(mark):
            found = self._token or "the end of the text"
            raise self._problem(f"not valid JSON: expected {mark!r}, found {found!r}")
        self._advance()

    def _unescape(self, token: str) -> str:
        body = token[1:-1]
        if "\\" not in body:
            return body
        text = _ESCAPE.sub(self._escape, body)
        try:  # \uD83D\uDE00 is one character; half of such a pair is none
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self._problem("not valid JSON: half of a surrogate pair in a string") from None

    def _escape(self, match: re.Match[str]) -> str:
        if match[1]:
            return chr(int(match[1], 16))
        if match[2] not in _ESCAPES:
            raise self._problem(f"not valid JSON: unknown escape '\\{match[2]}' in a string")
        return _ESCAPES[match[2]]

    def _place(self, offset: int) -> tuple[int, int]:
        line = bisect.bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def _problem(self, message: str, hint: str = "") -> SyntaxProblem:
        return SyntaxProblem(*self._place(self._at), message, hint)

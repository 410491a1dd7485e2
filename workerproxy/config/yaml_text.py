"""YAML text -> document tree, with the meaning that Envoy's reader gives to it, which is neither YAML 1.1 nor 1.2.

Facts, from ``source/common/protobuf/yaml_utility.cc`` and from running the real Envoy:

* a quoted or block scalar is a string; ``!`` alone does the same; any other tag (``!!str``) says nothing;
* ``y yes true on n no false off`` in lower, upper or first-upper case are booleans; ``~ null Null NULL`` and nothing
  at all are null;
* decimal, ``0x`` and leading-zero octal integers are numbers if they fit 32 bits, else strings of decimal digits;
  everything else, also ``1.5`` and ``1e3``, stays a string until the field's type decides;
* a key tagged ``!ignore`` is dropped with its value (but its anchors count); there are no merge keys: ``<<`` is a name;
* only the first of several documents is read; of equal keys the last one counts.

Built from parser events with an own stack, so that no depth of nesting can exhaust Python's or C's stack.
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

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

_TRUE: Final = frozenset(["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"])
_FALSE: Final = frozenset(["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"])
_NULL: Final = frozenset(("", "~", "null", "Null", "NULL"))
_INTEGER: Final = re.compile(r"([+-]?)(?:0[xX]([0-9a-fA-F]+)|0([0-7]+)|([0-9]|[1-9][0-9]+))")
_INT32: Final = range(-(2**31), 2**31)
_INT64: Final = range(-(2**63), 2**63)
_PLAIN_TAGS: Final = ("", "!")  # what "no tag" and "the non-specific tag" look like


def read_yaml(file: str, text: str) -> Document:
    """The first document of ``text``; on a syntax error ``errors`` has one entry and ``root`` is None."""
    document = Document(file)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        document.root = _Composer(document, loader).compose()
    except SyntaxProblem as problem:
        document.syntax_error(problem.line, problem.column, problem.message, problem.hint)
    except yaml.YAMLError as error:
        _report(document, error, text)
    finally:
        loader.dispose()
    return document


def resolve_scalar(text: str) -> tuple[str, Any]:
    """What an untagged plain scalar means: (kind, value) as ``Node`` holds them. Null is decided before."""
    if text in _TRUE:
        return BOOL, True
    if text in _FALSE:
        return BOOL, False
    match = _INTEGER.fullmatch(text)
    if match is None:
        return STRING, text
    sign, hexadecimal, octal, decimal = match.groups()
    value = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
    if sign == "-":
        value = -value
    if value in _INT32:
        return NUMBER, str(value)
    return STRING, str(value) if value in _INT64 else text


def is_plain_string(text: str) -> bool:
    """Whether ``text``, written without quotes, would be read as that same string."""
    return text not in _NULL and resolve_scalar(text) == (STRING, text)


TOO_DEEP: Final = f"nested more than {MAX_DEPTH} levels deep"


class _Composer:
    """Turns parser events into nodes. One per text."""

    def __init__(self, document: Document, loader: Any) -> None:
        self._document = document
        self._loader = loader
        self._anchors: dict[str, Node] = {}
        self._sizes: dict[int, int] = {}  # id(anchored node) -> nodes below it, aliases counted as copies
        self._nodes = 0

    def compose(self) -> Node:
        event = self._next()
        while not isinstance(event, yaml.NodeEvent):
            if isinstance(event, yaml.StreamEndEvent):
                raise SyntaxProblem(1, 1, "the text is empty", "expected a mapping such as 'static_resources: ...'")
            event = self._next()
        root = self._node(event)
        if root.kind == NULL:
            raise SyntaxProblem(1, 1, "the text is empty", "expected a mapping such as 'static_resources: ...'")
        return root

    def _next(self) -> Any:
        return self._loader.get_event()

    def _node(self, first: Any) -> Node:
        """The node that begins with event ``first``; iterative, see ``_Frame``."""
        stack: list[_Frame] = []
        event = first
        while True:
            node: Node | None = None
            if isinstance(event, yaml.ScalarEvent):
                node = self._scalar(event)
            elif isinstance(event, yaml.AliasEvent):
                node = self._alias(event, stack)
            elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
                node = self._close(stack.pop())
            else:
                if len(stack) >= MAX_DEPTH:
                    raise self._problem(event, TOO_DEEP)
                stack.append(self._open(event))
            if node is not None:
                if not stack:
                    return node
                self._add(stack[-1], node, event)
            event = self._next()

    def _scalar(self, event: Any) -> Node:
        mark = event.start_mark
        tag = event.tag
        if tag is None and not event.style and event.value in _NULL:
            node = Node(NULL, None, mark.line + 1, mark.column + 1)
        elif (event.style and tag in (None, *_PLAIN_TAGS)) or tag == "!":
            node = Node(STRING, event.value, mark.line + 1, mark.column + 1)
        else:
            node = Node(*resolve_scalar(event.value), mark.line + 1, mark.column + 1)
        self._count(1, event)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: Any, stack: list[_Frame]) -> Node:
        target = self._anchors.get(event.anchor)
        if target is None:
            raise self._problem(event, f"the alias '*{event.anchor}' names an anchor that is not defined before it")
        if any(frame.node is target for frame in stack):
            raise self._problem(event, f"the alias '*{event.anchor}' stands inside what it names")
        self._count(self._sizes.get(id(target), 1), event)
        return target

    def _open(self, event: Any) -> _Frame:
        mark = event.start_mark
        kind = MAP if isinstance(event, yaml.MappingStartEvent) else LIST
        frame = _Frame(Node(kind, [], mark.line + 1, mark.column + 1), self._nodes)
        if event.anchor:
            self._anchors[event.anchor] = frame.node
        return frame

    def _close(self, frame: _Frame) -> Node:
        self._count(1, None)
        self._sizes[id(frame.node)] = self._nodes - frame.count_before
        return frame.node

    def _add(self, frame: _Frame, node: Node, event: Any) -> None:
        if frame.node.kind == LIST:
            frame.node.value.append(node)
            return
        if frame.key is None:
            frame.key = self._key(node, event)
            return
        entry, frame.key = frame.key, None
        if entry is _IGNORED:
            return
        entry.node = node
        self._put(frame, entry)

    def _key(self, node: Node, event: Any) -> Entry:
        if not isinstance(event, (yaml.ScalarEvent, yaml.AliasEvent)) or node.kind in (LIST, MAP):
            raise SyntaxProblem(node.line, node.column, f"a key must be a plain name, not {node.kind}")
        if isinstance(event, yaml.ScalarEvent):
            if event.tag == "!ignore":
                return _IGNORED
            text = event.value if node.kind != NULL else "null"
        else:
            text = str(node.value)
        mark: Any = event.start_mark
        return Entry(text, mark.line + 1, mark.column + 1, node)

    def _put(self, frame: _Frame, entry: Entry) -> None:
        earlier = frame.keys.get(entry.key)
        if earlier is not None:
            self._document.duplicate(entry.line, entry.column, entry.key, earlier.line)
            frame.node.value.remove(earlier)
        frame.keys[entry.key] = entry
        frame.node.value.append(entry)

    def _count(self, nodes: int, event: Any) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise self._problem(event, f"more than {MAX_NODES} values (aliases count as what they name)")

    def _problem(self, event: Any, message: str) -> SyntaxProblem:
        mark = event.start_mark if event is not None else None
        return SyntaxProblem(mark.line + 1 if mark else 0, mark.column + 1 if mark else 0, message)


class _Frame:
    """An open list or mapping: what has begun and not ended yet."""

    __slots__ = ("count_before", "key", "keys", "node")

    def __init__(self, node: Node, count_before: int) -> None:
        self.node = node
        self.count_before = count_before
        self.key: Entry | None = None  # a mapping's key whose value comes next
        self.keys: dict[str, Entry] = {}


_IGNORED: Final = Entry("!ignore", 0, 0, Node(NULL, None, 0, 0))


def _report(document: Document, error: yaml.YAMLError, text: str) -> None:
    mark: Any = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    hint = ""
    if "nesting depth" in problem:  # PyYAML 6.0.4 counts brackets itself, before it gives any event
        document.syntax_error(mark.line + 1 if mark else 1, 1, TOO_DEEP, hint)
        return
    if mark is not None:
        line, column = mark.line + 1, mark.column + 1
    else:
        before = text[: getattr(error, "position", 0) or 0]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    context = getattr(error, "context", None)
    if context:
        problem = f"{problem} ({context})"
    rows = text.split("\n")
    if line <= len(rows) and "\t" in rows[line - 1][: len(rows[line - 1]) - len(rows[line - 1].lstrip())]:
        hint = "YAML is indented with spaces, not with tabs"
    document.syntax_error(line, column, f"not valid YAML: {problem}", hint)

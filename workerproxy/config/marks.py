"""Where each part of a configuration message was written: a tree of marks beside the tree of messages.

The builder makes one while it makes the message; whoever checks the message later asks it for positions. Merging
two messages (``--config-yaml`` over the file) merges their marks in the same way, so positions survive it. A message
that came from a binary file has marks without lines.
"""

from __future__ import annotations

from typing import TypeAlias

from workerproxy.config.errors import Position

Path: TypeAlias = "tuple[Path, str] | None"
"""A path in the document, innermost last, as a linked list: cheap to extend, rendered only for a message."""


class Mark:
    """The place of one value. ``line``/``column`` is where the value begins, ``key_*`` where its key does.

    ``children``: field name -> Mark (singular), list of Mark (repeated), dict of Mark (map).
    """

    __slots__ = ("children", "column", "failed", "file", "key_column", "key_line", "line")

    def __init__(self, file: str, line: int = 0, column: int = 0, key_line: int = 0, key_column: int = 0) -> None:
        self.file = file
        self.line = line
        self.column = column
        self.key_line = key_line or line
        self.key_column = key_column or column
        self.failed = False  # something was written here, but it could not be read: already reported
        self.children: dict[str, Mark | list[Mark] | dict[str, Mark]] | None = None

    def has(self, name: str) -> bool:
        """Whether the field was written in the text, with a readable value or not."""
        return self.children is not None and name in self.children

    @property
    def position(self) -> Position:
        return Position(self.file, self.line, self.column)

    @property
    def key_position(self) -> Position:
        return Position(self.file, self.key_line, self.key_column)

    def child(self, name: str) -> Mark:
        """The mark of a field (the first entry's of several); this mark's own place when it has none."""
        found = self.children.get(name) if self.children else None
        if isinstance(found, Mark):
            return found
        if found:
            return found[0] if isinstance(found, list) else next(iter(found.values()))
        return Mark(self.file, self.line, self.column)

    def item(self, name: str, index: int) -> Mark:
        """The mark of one element of a repeated field."""
        found = self.children.get(name) if self.children else None
        if isinstance(found, list) and index < len(found):
            return found[index]
        return Mark(self.file, self.line, self.column)

    def entry(self, name: str, key: str) -> Mark:
        """The mark of one value of a map field."""
        found = self.children.get(name) if self.children else None
        if isinstance(found, dict) and key in found:
            return found[key]
        return Mark(self.file, self.line, self.column)

    def put(self, name: str, mark: Mark) -> None:
        """Set the mark of a singular field."""
        if self.children is None:
            self.children = {}
        self.children[name] = mark

    def items(self, name: str) -> list[Mark]:
        """The marks of a repeated field, to append to."""
        if self.children is None:
            self.children = {}
        found = self.children.setdefault(name, [])
        assert isinstance(found, list)
        return found

    def entries(self, name: str) -> dict[str, Mark]:
        """The marks of a map field, to add to."""
        if self.children is None:
            self.children = {}
        found = self.children.setdefault(name, {})
        assert isinstance(found, dict)
        return found

    def merge(self, other: Mark) -> None:
        """Do what protobuf's MergeFrom does: append repeated, merge singular and map entries by name."""
        for name, theirs in (other.children or {}).items():
            mine = self.children.get(name) if self.children else None
            if isinstance(mine, list) and isinstance(theirs, list):
                mine.extend(theirs)
            elif isinstance(mine, dict) and isinstance(theirs, dict):
                mine.update(theirs)
            elif isinstance(mine, Mark) and isinstance(theirs, Mark):
                mine.merge(theirs)
                mine.file, mine.line, mine.column = theirs.file, theirs.line, theirs.column
                mine.key_line, mine.key_column = theirs.key_line, theirs.key_column
            else:
                if self.children is None:
                    self.children = {}
                self.children[name] = theirs


def render_path(path: Path) -> str:
    """``static_resources.listeners[0].name`` from a linked path whose segments are ``name``, ``[0]`` or ``[key]``."""
    segments: list[str] = []
    while path is not None:
        path, segment = path
        segments.append(segment)
    text = ""
    for segment in reversed(segments):
        text += segment if segment.startswith("[") or not text else f".{segment}"
    return text

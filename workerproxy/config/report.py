"""Makes findings at a field of a visited message: the mark and the path are looked up, the words are given."""

from __future__ import annotations

from workerproxy.config.errors import SEMANTIC, ConfigError
from workerproxy.config.marks import Mark, Path, render_path
from workerproxy.config.walk import Visit


class Place:
    """A place in the document: go down with ``field`` and ``item``, then ``error``."""

    __slots__ = ("mark", "path")

    def __init__(self, mark: Mark, path: Path) -> None:
        self.mark = mark
        self.path = path

    @classmethod
    def of(cls, visit: Visit) -> Place:
        return cls(visit.mark, visit.path)

    def field(self, name: str) -> Place:
        return Place(self.mark.child(name), (self.path, name))

    def item(self, name: str, index: int) -> Place:
        return Place(self.mark.item(name, index), ((self.path, name), f"[{index}]"))

    def entry(self, name: str, key: str) -> Place:
        return Place(self.mark.entry(name, key), ((self.path, name), f"[{key}]"))

    def error(
        self, message: str, expected: str = "", found: str = "", hint: str = "", kind: str = SEMANTIC
    ) -> ConfigError:
        return ConfigError(kind, self.mark.position, render_path(self.path), message, expected, found, hint)

    @property
    def where(self) -> str:
        """``line 12`` for another finding to refer to, or the path when there are no lines."""
        return f"on line {self.mark.line}" if self.mark.line else f"at {render_path(self.path)}"

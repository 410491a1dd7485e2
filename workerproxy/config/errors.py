"""What can be wrong with a configuration: ``ConfigError`` (one finding) and ``ConfigErrors`` (all of them, raised).

A finding says where (file, line, column and the path in the document), what was expected, what was found, and the
nearest thing that would be right. Rendered as text for people, as JSON for tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple


class Position(NamedTuple):
    """A place in a configuration text. Lines and columns count from 1; 0 means that the format keeps none."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


SYNTAX: Final = "syntax"  # not YAML, JSON, or a protobuf
UNKNOWN: Final = "unknown"  # no such field, enum value or type
TYPE: Final = "type"  # a value that does not fit its field
CONSTRAINT: Final = "constraint"  # a rule of Envoy's API (validate.rules) is broken
UNSUPPORTED_FIELD: Final = "unsupported-field"  # valid Envoy, not (yet) workerproxy; --allow-unsupported tolerates it
UNSUPPORTED_VALUE: Final = "unsupported-value"  # a value or type that is valid Envoy; nothing could stand in for it
SEMANTIC: Final = "semantic"  # each part is valid, together they are not
DEPRECATED: Final = "deprecated"  # still read, will go
DUPLICATE: Final = "duplicate"  # given twice; the later one counts

_MAX_TEXT: Final = 500  # characters of one part of a finding; a file may hold a word of a megabyte


@dataclass(frozen=True, slots=True)
class ConfigError:
    """One finding. ``kind`` is one of the constants above; all texts are single-line, without a full stop."""

    kind: str
    position: Position
    path: str
    message: str
    expected: str = ""
    found: str = ""
    hint: str = ""

    def __post_init__(self) -> None:
        for name in ("path", "message", "expected", "found", "hint"):
            text = getattr(self, name)
            if len(text) > _MAX_TEXT:
                object.__setattr__(self, name, text[: _MAX_TEXT - 1] + "…")

    def __str__(self) -> str:
        parts = [f"{self.position}: "]
        if self.path:
            parts.append(f"{self.path}: ")
        parts.append(self.message)
        if self.expected:
            parts.append(f"; expected {self.expected}")
        if self.found:
            parts.append(f", found {self.found}" if self.expected else f"; found {self.found}")
        if self.hint:
            parts.append(f"; {self.hint}")
        return "".join(parts)

    def as_dict(self) -> dict[str, str | int]:
        """The finding as flat JSON-able data: ``kind, file, line, column, path, message, expected, found, hint``."""
        plain = asdict(self)
        del plain["position"]
        return {
            "kind": plain.pop("kind"),
            "file": self.position.file,
            "line": self.position.line,
            "column": self.position.column,
            **plain,
        }


class ConfigErrors(Exception):
    """The configuration is refused. ``errors`` holds every reason found, in the order of the document."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors: Sequence[ConfigError] = tuple(sorted(set(errors), key=_place))
        super().__init__(self.errors)

    def __str__(self) -> str:
        return render_text(self.errors)


def render_text(errors: Sequence[ConfigError]) -> str:
    """One line per finding, for people and for editors that understand ``file:line:column:``."""
    return "\n".join(map(str, errors))


def render_json(errors: Sequence[ConfigError], warnings: Sequence[ConfigError] = ()) -> str:
    """``{"errors": [...], "warnings": [...]}``, each entry as ``ConfigError.as_dict`` gives it."""
    return json.dumps({"errors": [e.as_dict() for e in errors], "warnings": [w.as_dict() for w in warnings]}, indent=2)


def _place(error: ConfigError) -> tuple[str, int, int, str, str]:
    return (*error.position, error.path, error.message)

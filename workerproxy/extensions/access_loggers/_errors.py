"""What is wrong with an access log's configuration, and where."""

from __future__ import annotations


class AccessLogError(ValueError):
    """An access log that cannot be built. ``path``: the field, from the ``AccessLog`` message on."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: {problem}" if path else problem)


def at(path: str, *fields: str | int) -> str:
    """``path`` continued by field names and indices."""
    for field in fields:
        if isinstance(field, int):
            path += f"[{field}]"
        else:
            path = f"{path}.{field}" if path else field
    return path

"""``DataSource``: text that is in the configuration, in a file or in the environment. Read once, when it is built.

Envoy's name: ``Config::DataSource``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from envoy.config.core.v3.base_pb2 import DataSource

READS: Final[dict[str, frozenset[str]]] = {
    "envoy.config.core.v3.DataSource": frozenset({"filename", "inline_bytes", "inline_string", "environment_variable"}),
}


class DataSourceError(ValueError):
    """The data cannot be had, or is too large; the text says why."""


def read_data_source(source: DataSource, max_bytes: int | None = None) -> bytes:
    """The data; b"" when nothing is set. Raises ``DataSourceError``, also for more than ``max_bytes``."""
    kind = source.WhichOneof("specifier")
    if kind == "filename":
        data = _file(source.filename, max_bytes)
    elif kind == "inline_bytes":
        data = source.inline_bytes
    elif kind == "inline_string":
        data = source.inline_string.encode("utf-8", "surrogateescape")
    elif kind == "environment_variable":
        value = os.environb.get(source.environment_variable.encode())
        if value is None:
            raise DataSourceError(f"there is no environment variable {source.environment_variable}")
        data = value
    else:
        data = b""
    if max_bytes is not None and len(data) > max_bytes:
        raise DataSourceError(f"{len(data)} bytes are more than the {max_bytes} that are allowed")
    return data


def _file(path: str, max_bytes: int | None) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read() if max_bytes is None else file.read(max_bytes + 1)
    except OSError as error:
        raise DataSourceError(f"{path} cannot be read: {error.strerror}") from None

"""Writes a line per request to a file, as text or JSON.

Envoy's name: ``envoy.access_loggers.file``. Without a format the lines are Envoy's default ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog

from workerproxy.extensions.access_loggers import _filters
from workerproxy.extensions.access_loggers._errors import AccessLogError
from workerproxy.extensions.access_loggers._logger import LogContext, Logger, default_format, log_format, make_logger
from workerproxy.http.formatter import FormatError, Formatter, compile_format
from workerproxy.http.json_format import compile_json_format
from workerproxy.http.substitution_format import struct_value

if TYPE_CHECKING:
    from envoy.config.accesslog.v3.accesslog_pb2 import AccessLogFilter
    from google.protobuf.any_pb2 import Any as AnyMessage

NAME: Final = "envoy.access_loggers.file"
CONFIG_TYPE: Final = "envoy.extensions.access_loggers.file.v3.FileAccessLog"
READS: Final[dict[str, frozenset[str]]] = {
    CONFIG_TYPE: frozenset({"path", "format", "json_format", "typed_json_format", "log_format"}),
    **_filters.READS,
}


def create(packed: AnyMessage, filter_config: AccessLogFilter | None, context: LogContext) -> Logger:
    """Make the logger. Raises ``AccessLogError``."""
    config = FileAccessLog()
    packed.Unpack(config)
    if not config.path:
        raise AccessLogError("typed_config.path", "a path is needed")
    return make_logger(_format(config), filter_config, config.path, context)


def _format(config: FileAccessLog) -> Formatter:
    kind = config.WhichOneof("access_log_format")
    if kind in ("json_format", "typed_json_format"):
        return _compiled(kind, lambda: compile_json_format(struct_value(getattr(config, kind))))
    if kind == "format" and config.format:
        return _compiled(kind, lambda: compile_format(config.format, one_line=True))
    return log_format(config) if kind == "log_format" else default_format()


def _compiled(field: str, build: Any) -> Formatter:
    try:
        formatter: Formatter = build()
    except FormatError as error:
        raise AccessLogError(f"typed_config.{field}", str(error)) from None
    return formatter

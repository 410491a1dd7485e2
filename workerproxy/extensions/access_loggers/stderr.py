"""Writes a line per request to the standard error, as text or JSON.

Envoy's name: ``envoy.access_loggers.stderr``. Without a format the lines are Envoy's default ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from envoy.extensions.access_loggers.stream.v3.stream_pb2 import StderrAccessLog

from workerproxy.extensions.access_loggers import _filters
from workerproxy.extensions.access_loggers._logger import STDERR, LogContext, Logger, log_format, make_logger

if TYPE_CHECKING:
    from envoy.config.accesslog.v3.accesslog_pb2 import AccessLogFilter
    from google.protobuf.any_pb2 import Any as AnyMessage

NAME: Final = "envoy.access_loggers.stderr"
CONFIG_TYPE: Final = "envoy.extensions.access_loggers.stream.v3.StderrAccessLog"
READS: Final[dict[str, frozenset[str]]] = {CONFIG_TYPE: frozenset({"log_format"}), **_filters.READS}


def create(packed: AnyMessage, filter_config: AccessLogFilter | None, context: LogContext) -> Logger:
    """Make the logger. Raises ``AccessLogError``."""
    config = StderrAccessLog()
    packed.Unpack(config)
    return make_logger(log_format(config), filter_config, STDERR, context)

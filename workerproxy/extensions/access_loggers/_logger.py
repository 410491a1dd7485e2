"""What the loggers of this folder share: a format, a filter and a writer make a logger.

Envoy's names: ``AccessLoggers::Common::ImplBase``, ``FileAccessLog``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from workerproxy.extensions.access_loggers._errors import AccessLogError
from workerproxy.extensions.access_loggers._filters import compile_filter
from workerproxy.http.data_source import DataSourceError
from workerproxy.http.formatter import DEFAULT_FORMAT, FormatError, Formatter, compile_format
from workerproxy.http.substitution_format import compile_substitution_format

if TYPE_CHECKING:
    from envoy.config.accesslog.v3.accesslog_pb2 import AccessLogFilter

    from workerproxy.http.stream_info import StreamInfo

STDOUT: Final = "/dev/stdout"
STDERR: Final = "/dev/stderr"


class LogContext(Protocol):
    """What a logger gets from the worker that it runs in."""

    def log_writer(self, destination: str) -> Callable[[bytes], None]:
        """What takes the lines for a file; the same for loggers of the same file.

        ``STDOUT`` and ``STDERR`` are the process's own. A line is taken whole or dropped whole; the call neither blocks
        nor raises. Opening raises ``OSError``.
        """


class Logger:
    """An ``AccessLogger``: one line for each request that passes the filter."""

    __slots__ = ("log",)

    log: Callable[[StreamInfo], None]

    def __init__(
        self, formatter: Formatter, passes: Callable[[StreamInfo], bool] | None, writer: Callable[[bytes], None]
    ):
        text = formatter.format_bytes
        if passes is None:
            self.log = lambda info: writer(text(info))
        else:
            self.log = lambda info: writer(text(info)) if passes(info) else None


def make_logger(
    formatter: Formatter, filter_config: AccessLogFilter | None, destination: str, context: LogContext
) -> Logger:
    """Put a logger together. Raises ``AccessLogError``."""
    passes = None if filter_config is None else compile_filter(filter_config)
    try:
        writer = context.log_writer(destination)
    except OSError as error:
        raise AccessLogError("typed_config.path", f"unable to open {destination!r}: {error.strerror}") from None
    return Logger(formatter, passes, writer)


def default_format() -> Formatter:
    return compile_format(DEFAULT_FORMAT, one_line=True)


def log_format(config: Any) -> Formatter:
    """The format of a message whose ``log_format`` may be set. Raises ``AccessLogError``."""
    if not config.HasField("log_format"):
        return default_format()
    if config.log_format.WhichOneof("format") is None:
        raise AccessLogError("typed_config.log_format", "one of text_format_source, json_format is needed")
    try:
        return compile_substitution_format(config.log_format, one_line=True)
    except (FormatError, DataSourceError) as error:
        raise AccessLogError("typed_config.log_format", str(error)) from None

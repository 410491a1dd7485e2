"""The access logs of a worker: makes the loggers a configuration names and owns the files they write to.

Loggers of one file share it, over reloads too; a file is closed when the last configuration that writes to it is gone.
Envoy's name: ``AccessLogManagerImpl``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from workerproxy.extensions.access_loggers._errors import AccessLogError
from workerproxy.extensions.registry import Registry
from workerproxy.worker.context import Refused
from workerproxy.worker.log_file import LogFile, LogFileSettings, LogFileStats

if TYPE_CHECKING:
    from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog

    from workerproxy.extensions.base import AccessLogger
    from workerproxy.worker.context import WorkerContext


class AccessLogs:
    """One per worker. Is the ``LogContext`` of the access loggers."""

    def __init__(self, context: WorkerContext) -> None:
        self._registry = Registry(("access_loggers",))
        self._files: WeakValueDictionary[str, LogFile] = WeakValueDictionary()
        self._settings = LogFileSettings(
            context.stats.group("filesystem", LogFileStats),
            context.loop.call_later,
            context.options.file_flush_interval_ms / 1000,
        )

    def create(self, config: AccessLog) -> AccessLogger:
        """The logger of an ``AccessLog`` message. Raises ``Refused``."""
        type_name = config.typed_config.type_url.rpartition("/")[2]
        extension = self._registry.find("access_loggers", type_name)
        if extension is None:
            raise Refused(f"access log {config.name}: no access logger for {type_name or 'an empty type'}")
        filter_config = config.filter if config.HasField("filter") else None
        try:
            logger: AccessLogger = extension.module.create(config.typed_config, filter_config, self)
        except AccessLogError as error:
            raise Refused(f"access log {config.name}: {error}") from None
        return logger

    def log_writer(self, destination: str) -> Callable[[bytes], None]:
        """See ``LogContext``."""
        file = self._files.get(destination)
        if file is None:
            file = self._files[destination] = LogFile(destination, self._settings)
        return file.write

    def reopen(self) -> None:
        """Open all files by their paths again (SIGUSR1)."""
        for file in list(self._files.values()):
            file.reopen()

    def flush(self) -> None:
        """Write all buffered lines, as far as that goes without waiting."""
        for file in list(self._files.values()):
            file.flush()

    def close(self) -> None:
        """Write the last lines and close. Waits up to half a second per file for a reader that stalls."""
        for file in list(self._files.values()):
            file.close()

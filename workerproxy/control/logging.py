"""Application logs, the same in the main process and in the workers, in Envoy's form.

Loggers are the standard library's, named ``workerproxy.<component>`` (``main``, ``config``, ``upstream`` ...).
``--log-format`` is an spdlog pattern, compiled once; ``%t`` is the process id, since a worker is a process here.
The request path does not log; this is for what happens to processes, configurations and listeners.

Where stderr goes to systemd's journal and no other format is asked for, each line begins with its priority
(``sd-daemon(3)``) and has no time, since the journal keeps both: ``journalctl -p warning`` finds what it should.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TextIO

ROOT: Final = "workerproxy"
TRACE: Final = 5
OFF: Final = 100
LEVELS: Final = MappingProxyType(
    {
        "trace": TRACE,
        "debug": logging.DEBUG,
        "info": logging.INFO,
        "warning": logging.WARNING,
        "error": logging.ERROR,
        "critical": logging.CRITICAL,
        "off": OFF,
    }
)
_ALIASES: Final = MappingProxyType({"warn": "warning"})  # as Envoy's command line takes it

# Components that log, with Envoy's names where it has them. `/logging` lists them before their first line.
COMPONENTS: Final = (
    "admin",
    "client",
    "config",
    "conn_handler",
    "connection",
    "dns",
    "file",
    "filter",
    "http",
    "main",
    "pool",
    "router",
    "stats",
    "upstream",
    "worker",
)
DEFAULT_FORMAT: Final = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v"
JOURNAL_FORMAT: Final = "[%t][%l][%n] [%g:%#] %v"  # the default without its time

# From which level on a line has which priority (syslog's numbers).
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY: Final = 7


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What the command line says about application logs."""

    level: str = "info"
    components: Mapping[str, str] = field(default_factory=dict)  # component -> level
    format: str = DEFAULT_FORMAT
    format_given: bool = False  # --log-format asks for it: the journal gets it, too, even if it is the default
    escaped: bool = False  # --log-format-escaped: newlines in messages are written as \\n
    path: str = ""  # empty: stderr


class ApplicationLog:
    """The process's log: one handler on the ``workerproxy`` logger. Made once, at start."""

    def __init__(self, settings: LogSettings, environment: Mapping[str, str] = os.environ) -> None:
        """Raises ``OSError`` when the log file cannot be opened."""
        self._path = settings.path
        self._handler = logging.StreamHandler(_open(settings.path) if settings.path else sys.stderr)
        plain = not settings.path and not settings.format_given and settings.format == DEFAULT_FORMAT
        if plain and leads_to_journal(self._handler.stream, environment):
            self._handler.setFormatter(JournalFormatter(settings.escaped))
        else:
            self._handler.setFormatter(PatternFormatter(settings.format, settings.escaped))
        root = logging.getLogger(ROOT)
        root.propagate = False
        root.handlers[:] = [self._handler]
        set_levels(settings.level, settings.components)

    def reopen(self) -> None:
        """Open the file again under its name; the old one stays in use when that fails."""
        if self._path:
            try:
                fresh = _open(self._path)
            except OSError as error:
                logging.getLogger(f"{ROOT}.main").error("cannot reopen %s: %s", self._path, error.strerror)
                return
            old = self._handler.setStream(fresh)
            if old is not None:
                old.close()

    def close(self) -> None:
        logging.getLogger(ROOT).removeHandler(self._handler)
        if self._path:
            self._handler.stream.close()


def level_number(name: str) -> int | None:
    """The number of a level's name, None when there is no such level."""
    return LEVELS.get(_ALIASES.get(name, name))


def level_name(number: int) -> str:
    """The name of the level a number belongs to."""
    return next((name for name, value in reversed(list(LEVELS.items())) if number >= value), "trace")


def set_levels(level: str, components: Mapping[str, str]) -> None:
    """Set the level of all components (unless empty), then of single ones. Unknown names raise ``ValueError``."""
    numbers: dict[str, int] = {}
    for name, text in [*({"": level} if level else {}).items(), *components.items()]:
        number = level_number(text)
        if number is None:
            raise ValueError(f"unknown log level {text!r}")
        numbers[name] = number
    if level:
        logging.getLogger(ROOT).setLevel(numbers.pop(""))
        for name in component_levels():
            logging.getLogger(f"{ROOT}.{name}").setLevel(logging.NOTSET)
    for name, number in numbers.items():
        logging.getLogger(f"{ROOT}.{name}").setLevel(number)


def component_levels() -> dict[str, str]:
    """Every component and the level it logs at, by name."""
    prefix = f"{ROOT}."
    used = {name[len(prefix) :] for name in logging.root.manager.loggerDict if name.startswith(prefix)}
    names = sorted(used.union(COMPONENTS))
    return {name: level_name(logging.getLogger(prefix + name).getEffectiveLevel()) for name in names}


class PatternFormatter(logging.Formatter):
    """Formats by an spdlog pattern. Raises ``ValueError`` on a flag it does not know."""

    def __init__(self, pattern: str, escaped: bool = False) -> None:
        super().__init__()
        self._parts = _compile(pattern, escaped)

    def format(self, record: logging.LogRecord) -> str:
        return "".join([part if isinstance(part, str) else part(record) for part in self._parts])


class JournalFormatter(PatternFormatter):
    """The default format without its time, and ``<priority>`` before every line, since the journal takes lines."""

    def __init__(self, escaped: bool = False) -> None:
        super().__init__(JOURNAL_FORMAT, escaped)

    def format(self, record: logging.LogRecord) -> str:
        mark = f"<{journal_priority(record.levelno)}>"
        return mark + super().format(record).replace("\n", f"\n{mark}")


def journal_priority(level: int) -> int:
    """The syslog priority of a log level: 2 critical, 3 error, 4 warning, 6 info, 7 debug and below."""
    return next((priority for number, priority in _PRIORITIES if level >= number), _DEBUG_PRIORITY)


def leads_to_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether what is written there is the journal's: ``JOURNAL_STREAM`` names its device and inode (systemd.exec(5)).

    The variable alone says nothing: a program further down may have its stderr redirected, and the variable inherited.
    """
    try:
        device, inode = map(int, environment.get("JOURNAL_STREAM", "").split(":"))
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # not set; no descriptor (io.UnsupportedOperation is both)
        return False
    return (status.st_dev, status.st_ino) == (device, inode)


_Part = Callable[[logging.LogRecord], str]


def _compile(pattern: str, escaped: bool) -> list[str | _Part]:
    parts: list[str | _Part] = []
    position = 0
    while position < len(pattern):
        if pattern[position] != "%":
            end = pattern.find("%", position)
            end = len(pattern) if end < 0 else end
            parts.append(pattern[position:end])
            position = end
            continue
        flag = pattern[position + 1 : position + 2]
        if flag == "%":
            parts.append("%")
        elif flag == "v":
            parts.append(_escaped_text if escaped else _text)
        elif flag in _FLAGS:
            parts.append(_FLAGS[flag])
        elif flag in _TIME_FLAGS and flag:
            parts.append(_time_part(f"%{flag}"))
        else:
            raise ValueError(f"unknown flag %{flag} in the log format {pattern!r}")
        position += 2
    return parts


def _text(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info:
        text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
    return text


def _escaped_text(record: logging.LogRecord) -> str:
    return json.dumps(_text(record), ensure_ascii=False)[1:-1]


def _component(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{ROOT}.")


def _file(record: logging.LogRecord) -> str:
    """The source file from the package on."""
    _, found, rest = record.pathname.rpartition(f"/{ROOT}/")
    return f"{ROOT}/{rest}" if found else os.path.basename(record.pathname)


def _time_part(directive: str) -> _Part:
    return lambda record: time.strftime(directive, time.localtime(record.created))


_TIME_FLAGS: Final = frozenset("YmdHMSTDyjaAbBcCIprRFxXzZ")
_FLAGS: Final[Mapping[str, _Part]] = MappingProxyType(
    {
        "t": lambda record: str(record.process),
        "P": lambda record: str(record.process),
        "l": lambda record: level_name(record.levelno),
        "L": lambda record: level_name(record.levelno)[0].upper(),
        "n": _component,
        "g": _file,
        "s": lambda record: os.path.basename(record.pathname),
        "#": lambda record: str(record.lineno),
        "@": lambda record: f"{_file(record)}:{record.lineno}",
        "!": lambda record: record.funcName or "",
        "e": lambda record: f"{int(record.created * 1e3) % 1000:03d}",
        "f": lambda record: f"{int(record.created * 1e6) % 1_000_000:06d}",
        "F": lambda record: f"{int(record.created * 1e9) % 1_000_000_000:09d}",
        "E": lambda record: str(int(record.created)),
        "j": _escaped_text,
        "_": lambda record: _text(record).replace("\n", "\\n"),
        "i": lambda record: "0",
        "^": lambda record: "",
        "$": lambda record: "",
    }
)


def _open(path: str) -> TextIO:
    return open(path, "a", encoding="utf-8", errors="backslashreplace")

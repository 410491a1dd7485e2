"""The program ``workerproxy``: reads the command line, loads the configuration, and hands over to the main process.

Or, when its first word is a command (``reload``), tells a running process (``workerproxy.subcommands``). Exit status: 0
done, 1 refused (usage, configuration, or what the server reports), 130 interrupted while loading or waiting. Bad input
of any kind gives a message, never a traceback.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Final

from workerproxy import subcommands
from workerproxy.config.command_line import CommandLine, UsageError, parse, print_help_hint
from workerproxy.control.hot_restart import HOT_RESTART_DISABLED, HOT_RESTART_VERSION

if TYPE_CHECKING:
    from workerproxy.config.errors import ConfigError
    from workerproxy.config.load import LoadedConfig

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it


def main_entry() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run the program with ``argv`` (without its name) and return its exit status."""
    command = argv[0] if argv and argv[0] in subcommands.COMMANDS else ""
    try:
        _escape_what_cannot_be_shown()
        if command:
            return subcommands.run(argv)
        return _run(parse(argv, version_text(), subcommands.COMMANDS))
    except UsageError as error:
        print_help_hint(error, command)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `workerproxy --print-config | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK


def version_text() -> str:
    """``workerproxy  version: 0.1.0/CPython 3.11.7/...``, in the style of Envoy's."""
    parts = [_version_of("workerproxy"), f"{platform.python_implementation()} {platform.python_version()}"]
    parts += [f"{package} {_version_of(package)}" for package in ("uvloop", "httptools", "xds-protos")]
    return f"workerproxy  version: {'/'.join(parts)}"


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _run(command: CommandLine) -> int:
    for warning in command.warnings:
        print(f"workerproxy: warning: {warning}", file=sys.stderr)
    if command.print_hot_restart_version:
        print(HOT_RESTART_DISABLED if command.options.disable_hot_restart else HOT_RESTART_VERSION)
        return EXIT_OK
    if command.print_supported:
        from workerproxy.config.supported_table import render_supported

        _write(render_supported())
        return EXIT_OK
    loaded = _load(command)
    if loaded is None:
        return EXIT_FAILURE
    if command.print_config:
        from workerproxy.config.printing import to_yaml

        _write(to_yaml(loaded.bootstrap))
        return EXIT_OK
    if command.options.mode == "validate":
        if command.options.error_format == "text":
            print(f"configuration '{command.options.config_name}' OK", flush=True)
        return EXIT_OK
    if command.enable_core_dump:
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    from workerproxy.main_thread import server

    return server.run(command.options, loaded.bootstrap)


def _load(command: CommandLine) -> LoadedConfig | None:
    """The configuration; None after saying on stderr (with JSON: stdout) why there is none."""
    from workerproxy.config.errors import ConfigErrors
    from workerproxy.config.load import load

    options = command.options
    try:
        loaded = load(options)
    except ConfigErrors as refused:
        _report(command, refused.errors, ())
        if options.error_format == "text":
            number = f"{len(refused.errors)} error{'s' if len(refused.errors) > 1 else ''}"
            print(f"workerproxy: {number} in configuration '{options.config_name}'", file=sys.stderr)
        return None
    _report(command, (), loaded.warnings)
    return loaded


def _report(command: CommandLine, errors: Sequence[ConfigError], warnings: Sequence[ConfigError]) -> None:
    from workerproxy.config.errors import render_json, render_text

    if command.options.error_format == "json":
        if errors or warnings or command.options.mode == "validate":
            _write(render_json(errors, warnings) + "\n")
        return
    if errors:
        print(render_text(errors), file=sys.stderr)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _escape_what_cannot_be_shown() -> None:
    """On stdout; stderr does so by itself. A name in a configuration may not exist in the terminal's encoding."""
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()

"""The command line: Envoy's flags with Envoy's meaning, and a few of our own -> ``Options``.

Every flag of Envoy 1.40 is known. What has no counterpart here is accepted with a warning that says so, or refused;
nothing is ignored without a word. Usage errors exit with 1, as Envoy's do. The commands to a running process
(``workerproxy reload``) have flags of their own: ``workerproxy.subcommands``.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NoReturn

from workerproxy.config.cpus import usable_cpus
from workerproxy.config.options import DEFAULT_LOG_FORMAT, LOG_LEVELS, Options
from workerproxy.config.suggest import did_you_mean
from workerproxy.control.logging import COMPONENTS, PatternFormatter

_UINT32_MAX: Final = 2**32 - 1
_TAG_NAME: Final = re.compile(r"[A-Za-z0-9_]+")
_MODE: Final = re.compile(r"0*[0-7]{1,3}")
_USER: Final = re.compile(r"[^:\s]+(:[^:\s]+)?")  # whether there is such a user is known where it is to run

# Flags that are accepted and change nothing, and why; each warns when given.
_WITHOUT_EFFECT: Final = {
    "--reject-unknown-dynamic-fields": "there is no dynamic configuration yet",
    "--ignore-unknown-dynamic-fields": "there is no dynamic configuration yet",
    "--enable-mutex-tracing": "there are no mutexes to trace",
    "--log-stacktrace-single-entry": "stack traces are always one entry",
    "--stats-tag": "statistics have no extra tags yet",
    "--file-flush-min-size-kb": "access logs are flushed by time and by a fixed size",
    "--local-address-ip-version": "it is only shown by the admin pages",
}
# Each of these turns hot restart on. Envoy has it on by default, so that two of them on one machine collide; here an
# upgrade needs no socket as a rule (SIGUSR2), and two plain starts must not meet.
_HOT_RESTART: Final = ("--base-id", "--use-dynamic-base-id", "--restart-epoch", "--socket-path")
# These mean something only when it is on.
_OF_HOT_RESTART: Final = (
    "--base-id-path", "--socket-mode", "--parent-shutdown-time-s", "--skip-hot-restart-on-no-parent",
    "--skip-hot-restart-parent-stats",
)  # fmt: skip
# Flags whose meaning cannot be kept by ignoring them.
_REFUSED: Final = {
    "--disable-extensions": "extensions cannot be disabled yet",
    "--enable-fine-grain-logging": "log levels are per component, not per file; see --component-log-level",
}


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the command line asks for: the options, and what to do with them."""

    options: Options
    warnings: tuple[str, ...] = ()
    print_config: bool = False
    print_supported: bool = False
    print_hot_restart_version: bool = False
    enable_core_dump: bool = False


class UsageError(Exception):
    """The command line cannot be understood; the text says why, and what would be right."""


class Parser(argparse.ArgumentParser):
    """One that raises ``UsageError`` where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


class _Version(argparse.Action):
    """Print ``const`` as it is; argparse's own action would wrap it."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, value: Any, flag: str | None = None) -> None:
        print(self.const)
        parser.exit()


class _Once(argparse.Action):
    """A flag that may be given once, as in Envoy."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, value: Any, flag: str | None = None) -> None:
        if self.dest in namespace.given:
            parser.error(f"{flag} is given more than once")
        namespace.given.add(self.dest)
        setattr(namespace, self.dest, value)


def parse(argv: Sequence[str], version: str, commands: Mapping[str, str] = MappingProxyType({})) -> CommandLine:
    """Read the arguments (without the program's name). Raises ``UsageError``; ``--help`` and ``--version`` exit.

    ``commands``: what else the first word may be, and what it does, for the help.
    """
    parser = _parser(version, commands)
    found, unknown = parser.parse_known_args(argv, argparse.Namespace(given=set()))
    if unknown:
        raise unknown_argument(parser, unknown[0], commands)
    return _command_line(found)


def unknown_argument(parser: argparse.ArgumentParser, word: str, commands: Iterable[str] = ()) -> UsageError:
    """The error for what the parser does not know, with the nearest thing it does."""
    if word in commands:
        return UsageError(f"the command must come first: workerproxy {word} ...")
    flags = [option for action in parser._actions for option in action.option_strings]
    hint = did_you_mean(word.partition("=")[0], flags if word.startswith("-") else commands)
    return UsageError(f"unknown argument {word!r}" + (f"; {hint}" if hint else ""))


def _command_line(found: argparse.Namespace) -> CommandLine:
    for flag, reason in _REFUSED.items():
        if getattr(found, _dest(flag)):
            raise UsageError(f"{flag} is not supported: {reason}")
    warnings = [f"{flag} has no effect: {reason}" for flag, reason in _without_effect(found) if _given(found, flag)]
    if found.allow_unknown_fields:
        warnings.append("--allow-unknown-fields is deprecated, use --allow-unknown-static-fields instead")
    _check_together(found)
    return CommandLine(
        _options(found),
        tuple(warnings),
        print_config=found.print_config,
        print_supported=found.print_supported,
        print_hot_restart_version=found.hot_restart_version,
        enable_core_dump=found.enable_core_dump,
    )


def _without_effect(found: argparse.Namespace) -> Iterable[tuple[str, str]]:
    """Flags that change nothing on this command line, if they are given; and why."""
    yield from _WITHOUT_EFFECT.items()
    if found.disable_hot_restart:
        yield from ((flag, "--disable-hot-restart is given") for flag in _HOT_RESTART + _OF_HOT_RESTART)
    elif not _hot_restart(found):
        reason = f"hot restart is off; it is turned on by {', '.join(_HOT_RESTART[:-1])} or {_HOT_RESTART[-1]}"
        yield from ((flag, reason) for flag in _OF_HOT_RESTART)
    elif found.use_dynamic_base_id:
        yield "--base-id", "--use-dynamic-base-id is given"
    if not (found.config_path or found.config_yaml):
        yield "--watch", "the configuration is not read from a file"


def _hot_restart(found: argparse.Namespace) -> bool:
    return not found.disable_hot_restart and any(_given(found, flag) for flag in _HOT_RESTART)


def _given(found: argparse.Namespace, flag: str) -> bool:
    """Whether the flag, one without a default, stands on the command line; its value may be 0."""
    value = getattr(found, _dest(flag))
    return value is not None and value is not False and value != []


def _check_together(found: argparse.Namespace) -> None:
    if bool(found.listen) != bool(found.to):
        raise UsageError("--listen and --to belong together, as in '--listen :8080 --to http://127.0.0.1:3000'")
    if found.listen and (found.config_path or found.config_yaml):
        raise UsageError("--listen and --to cannot be used together with --config-path or --config-yaml")
    if found.workers is not None and found.concurrency is not None:
        raise UsageError("--workers and --concurrency mean the same; give one of them")
    if found.use_dynamic_base_id and found.restart_epoch:
        raise UsageError(f"cannot use --restart-epoch={found.restart_epoch} with --use-dynamic-base-id")


def _options(found: argparse.Namespace) -> Options:
    workers = found.workers if found.workers is not None else found.concurrency
    plain = {name: getattr(found, name) for name in _SAME_NAME if getattr(found, name) is not None}
    return Options(
        **plain,
        to=tuple(found.to),
        workers=usable_cpus() if workers is None else max(1, workers),
        log_format_given=found.log_format is not None,
        hot_restart=_hot_restart(found),
        component_log_levels=found.component_log_level or (),
        file_flush_interval_ms=found.file_flush_interval_msec,
        allow_unknown_static_fields=found.allow_unknown_static_fields or found.allow_unknown_fields,
        stats_tags=tuple(found.stats_tag),
    )


_SAME_NAME: Final = (
    "config_path", "config_yaml", "listen", "mode", "log_level", "log_format", "log_format_escaped", "log_path",
    "service_cluster", "service_node", "service_zone", "drain_time_s", "drain_strategy", "parent_shutdown_time_s",
    "file_flush_min_size_kb", "local_address_ip_version", "admin_address_path", "allow_unsupported",
    "skip_deprecated_logs", "error_format", "base_id", "use_dynamic_base_id", "base_id_path", "restart_epoch",
    "socket_path", "socket_mode", "skip_hot_restart_on_no_parent", "skip_hot_restart_parent_stats",
    "disable_hot_restart", "pid_file", "user", "umask", "watch", "cpu_affinity", "drain_grace_s",
)  # fmt: skip


# --- the flags -------------------------------------------------------------------------------------------------


def _parser(version: str, commands: Mapping[str, str]) -> argparse.ArgumentParser:
    epilog = ["example: workerproxy --listen :8080 --to http://127.0.0.1:3000"]
    if commands:
        epilog += ["", "commands to a running workerproxy (each has --help):"]
        epilog += [f"  workerproxy {name:<10} {text}" for name, text in commands.items()]
    parser = Parser(
        prog="workerproxy",
        usage="workerproxy [-c FILE | --listen ADDR --to URL ...] [--workers N] [flags]"
        + ("\n       workerproxy COMMAND [flags]" if commands else ""),
        description="An HTTP reverse proxy with Envoy's configuration. Without arguments: the embedded demo.",
        epilog="\n".join(epilog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, const=version, help="print the version and exit")
    _configuration_flags(parser.add_argument_group("configuration"))
    _process_flags(parser.add_argument_group("processes"))
    _log_flags(parser.add_argument_group("logs"))
    _node_flags(parser.add_argument_group("node"))
    _restart_flags(parser.add_argument_group("hot restart, Envoy's way to upgrade"))
    _other_flags(parser.add_argument_group("accepted for Envoy's sake"))
    return parser


def _value(group: Any, *flags: str, metavar: str = "TEXT", **more: Any) -> None:
    group.add_argument(*flags, action=_Once, metavar=metavar, **more)


def _repeated(group: Any, flag: str, **more: Any) -> None:
    group.add_argument(flag, action="append", default=[], **more)


def _switch(group: Any, flag: str, text: str) -> None:
    group.add_argument(flag, action="store_true", help=text)


def _configuration_flags(group: Any) -> None:
    _value(group, "-c", "--config-path", metavar="FILE", help="Envoy v3 bootstrap: .yaml, .json, .pb or .pb_text")
    _value(group, "--config-yaml", metavar="YAML", help="bootstrap text, merged over the file")
    _value(group, "--listen", metavar="ADDR", help="terse form: where to listen, such as :8080 (with --to)")
    _repeated(group, "--to", metavar="URL", help="terse form: where to proxy to; repeatable")
    mode = _choice("serve", "validate")
    _value(group, "--mode", metavar="MODE", type=mode, help="serve (default) or validate and exit")
    _switch(group, "--watch", "reload when the file, or one that it names, changes")
    _switch(group, "--print-config", "print the effective configuration as Envoy YAML and exit")
    _switch(group, "--print-supported", "print what is supported of Envoy's configuration as Markdown and exit")
    _switch(group, "--allow-unsupported", "only warn of Envoy fields that workerproxy does not read yet")
    _switch(group, "--allow-unknown-static-fields", "only warn of fields that Envoy's API does not have")
    _switch(group, "--allow-unknown-fields", "deprecated: --allow-unknown-static-fields")
    _switch(group, "--skip-deprecated-logs", "do not warn of deprecated fields")
    _value(group, "--error-format", metavar="FORM", type=_choice("text", "json"), help="text (default) or json")


def _process_flags(group: Any) -> None:
    _value(group, "--workers", metavar="N", type=_workers, help="worker processes; auto (default): usable cores")
    _value(group, "--concurrency", metavar="N", type=_workers, help="the same, with Envoy's name")
    _switch(group, "--cpuset-threads", "take the number of workers from the cpuset (the default does)")
    _switch(group, "--cpu-affinity", "pin each worker to a core of its own")
    grace = "after SIGTERM, how long only readiness fails before draining begins (0)"
    _value(group, "--drain-grace-s", metavar="S", type=_uint32, help=grace)
    _value(group, "--drain-time-s", metavar="S", type=_uint32, default=600, help="how long draining takes (600)")
    strategy = _choice("gradual", "immediate")
    _value(group, "--drain-strategy", metavar="HOW", type=strategy, help="gradual (default) or immediate")
    _value(group, "--admin-address-path", metavar="FILE", help="write the admin address to this file")
    _value(group, "--pidfile", dest="pid_file", metavar="FILE", type=_path, help="write the process id to this file")
    _value(group, "--user", metavar="USER[:GROUP]", type=_user, help="run as this user once the sockets are open")
    _value(group, "--umask", metavar="OCTAL", type=_octal, help="permissions that new files do not get, such as 027")
    version = _choice("v4", "v6")
    _value(group, "--local-address-ip-version", metavar="V", type=version, help="v4 (default) or v6")


def _log_flags(group: Any) -> None:
    levels = ", ".join(LOG_LEVELS)
    _value(group, "-l", "--log-level", metavar="LEVEL", type=_log_level, help=f"{levels}; default info")
    example = "such as upstream:debug,config:trace"
    _value(group, "--component-log-level", metavar="LIST", type=_component_levels, help=example)
    _value(group, "--log-path", metavar="FILE", help="application log; default stderr")
    shown = DEFAULT_LOG_FORMAT.replace("%", "%%")
    _value(group, "--log-format", metavar="PATTERN", type=_log_format, help=f"spdlog pattern; default {shown}")
    _switch(group, "--log-format-escaped", "escape line breaks and such in messages")
    _value(group, "--file-flush-interval-msec", metavar="MS", type=_uint32, default=10_000, help="access logs (10000)")
    _value(group, "--file-flush-min-size-kb", metavar="KB", type=_uint32, help="access logs (64)")


def _node_flags(group: Any) -> None:
    _value(group, "--service-cluster", help="overrides node.cluster")
    _value(group, "--service-node", help="overrides node.id")
    _value(group, "--service-zone", help="overrides node.locality.zone")


def _restart_flags(group: Any) -> None:
    _value(group, "--base-id", metavar="N", type=_uint32, help="a different one for each proxy on this machine (0)")
    _switch(group, "--use-dynamic-base-id", "take a base id that is free")
    _value(group, "--base-id-path", metavar="FILE", help="write the base id to this file")
    _value(group, "--restart-epoch", metavar="N", type=_uint32, help="0 for the first, one more for each that follows")
    _value(group, "--socket-path", metavar="PATH", type=_path, help="beginning of the socket's name (@ for abstract)")
    _value(group, "--socket-mode", metavar="OCTAL", type=_octal, help="permissions of the socket's file (600)")
    wait = "when the parent ends at the latest (900)"
    _value(group, "--parent-shutdown-time-s", metavar="S", type=_uint32, help=wait)
    _switch(group, "--skip-hot-restart-on-no-parent", "start afresh when there is no parent, instead of failing")
    _switch(group, "--skip-hot-restart-parent-stats", "do not take over the parent's statistics")
    _switch(group, "--disable-hot-restart", "ignore all of the above")
    _switch(group, "--hot-restart-version", "print which hand-over is spoken and exit")


def _other_flags(group: Any) -> None:
    _switch(group, "--enable-core-dump", "raise the core file limit to its maximum")
    _value(group, "--disable-extensions", metavar="LIST", help="refused: not supported yet")
    _switch(group, "--enable-fine-grain-logging", "refused: see --component-log-level")
    _switch(group, "--enable-mutex-tracing", "no effect")
    _switch(group, "--log-stacktrace-single-entry", "no effect")
    _switch(group, "--reject-unknown-dynamic-fields", "no effect yet")
    _switch(group, "--ignore-unknown-dynamic-fields", "no effect yet")
    _repeated(group, "--stats-tag", type=_stats_tag, metavar="NAME:VALUE", help="no effect yet")


# --- values ----------------------------------------------------------------------------------------------------


def _choice(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            message = f"unknown value {text!r}; expected one of {', '.join(allowed)}; {did_you_mean(text, allowed)}"
            raise argparse.ArgumentTypeError(message.rstrip("; "))
        return text

    return read


def _uint32(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > _UINT32_MAX:
        raise argparse.ArgumentTypeError(f"not a number from 0 to {_UINT32_MAX}: {text!r}")
    return int(text)


def _octal(text: str) -> int:
    if not _MODE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"not an octal file mode from 0 to 777: {text!r}")
    return int(text, 8)


def _path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected a path, found nothing")
    return text


def _user(text: str) -> str:
    if not _USER.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected USER or USER:GROUP, found {text!r}")
    return text


def _workers(text: str) -> int:
    if text == "auto":
        return usable_cpus()
    try:
        return max(1, _uint32(text))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expected a number or auto, found {text!r}") from None


def _log_level(text: str) -> str:
    level = "warning" if text == "warn" else text
    return _choice(*LOG_LEVELS)(level)


def _component_levels(text: str) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for part in text.split(",") if text else ():
        component, colon, level = part.partition(":")
        if not colon:
            raise argparse.ArgumentTypeError(f"expected COMPONENT:LEVEL, found {part!r}")
        if component not in COMPONENTS:
            raise argparse.ArgumentTypeError(f"unknown component {component!r}; there are {', '.join(COMPONENTS)}")
        found.append((component, _log_level(level)))
    return tuple(found)


def _log_format(text: str) -> str:
    try:
        PatternFormatter(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _stats_tag(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not _TAG_NAME.fullmatch(name) or "." in value:
        raise argparse.ArgumentTypeError(f"expected NAME:VALUE without dots, found {text!r}")
    return name, value


def _dest(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def print_help_hint(error: UsageError, command: str = "") -> None:
    """Say on stderr what is wrong with the command line, or with that of a command to a running process."""
    program = f"workerproxy {command}" if command else "workerproxy"
    print(f"{program}: {error}\nFor the flags: {program} --help", file=sys.stderr)

"""The commands to a running process: ``workerproxy reload``, ``roll``, ``upgrade``, ``workers``.

Each is one request to the admin interface of that process, or one signal, and prints what comes of it: what happened
on stdout, why it did not on stderr. Exit status: 0 done, 1 refused or failed.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from workerproxy import remote
from workerproxy.config.command_line import Parser, UsageError, unknown_argument
from workerproxy.remote import AdminAddress, Answer, RemoteError

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1

TIMEOUT_S: Final = 600  # a roll drains the workers one after the other
_NOT_FOUND: Final = 404

COMMANDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "reload": "read the configuration again and apply it",
        "roll": "replace the workers one by one, for changed Python code",
        "upgrade": "let the program that is installed now take over",
        "workers": "show the workers, or change their number",
    }
)

# What a command does when it is given as a signal. The others have no signal.
_SIGNALS: Final[Mapping[str, signal.Signals]] = MappingProxyType({"reload": signal.SIGHUP, "upgrade": signal.SIGUSR2})


def run(argv: Sequence[str]) -> int:
    """Do the command ``argv[0]``; returns the exit status. Raises ``UsageError``; ``--help`` exits."""
    parser = _parser(argv[0])
    found, unknown = parser.parse_known_args(argv[1:])
    if unknown:
        raise unknown_argument(parser, unknown[0])
    try:
        if found.pidfile is not None or found.pid is not None:
            return _by_signal(found)
        return _DO[found.command](found, _address(found))
    except RemoteError as error:
        _complain(found, str(error))
        return EXIT_FAILED


# --- the flags


def _parser(command: str) -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"workerproxy {command}",
        description=_DESCRIPTIONS[command],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(command=command)
    if command == "reload":
        parser.add_argument("--wait", action="store_true", help="wait until it is done, and say what became of it")
        parser.add_argument("--dry-run", action="store_true", help="only say what would become of it; change nothing")
    if command in ("roll", "upgrade"):
        parser.add_argument("--wait", action="store_true", help="as it does anyway")
    if command == "workers":
        parser.add_argument("count", nargs="?", type=_positive, metavar="N", help="how many there are to be")
    seconds = f"how long the answer may take ({TIMEOUT_S})"
    parser.add_argument("--timeout-s", type=_positive, metavar="S", default=TIMEOUT_S, help=seconds)
    which = parser.add_argument_group(
        "which process", "Where its admin interface listens. Without any of these: where the embedded default has it."
    ).add_mutually_exclusive_group()
    which.add_argument("-c", "--config-path", metavar="FILE", help="at the admin address of this configuration")
    which.add_argument("--admin", metavar="ADDRESS", help="HOST:PORT, /path/to.sock or @abstract")
    which.add_argument("--admin-address-path", metavar="FILE", help="as written by the process that had this flag")
    only = "" if command in _SIGNALS else "; not for this command"
    which.add_argument("--pidfile", metavar="FILE", help=f"a signal to the process that had this flag{only}")
    which.add_argument("--pid", type=_positive, metavar="PID", help=f"a signal to this main process{only}")
    return parser


_DESCRIPTIONS: Final = {
    "reload": """\
Have a running workerproxy read its configuration again and apply it (as SIGHUP does). What is valid is applied without
losing a request; what is not changes nothing.

Without --wait it is only asked for, and the log has the outcome. With --wait, or --dry-run: what changed and what
drains, with status 0; or every error with its place, with status 1.""",
    "roll": """\
Have a running workerproxy replace its workers, one after the other, by new ones that load their Python code afresh. A
new worker must serve before the old one drains; the first that does not ends the roll. Waits until it is done.""",
    "upgrade": """\
Have a running workerproxy start the program that is installed now, with the same arguments, and hand everything over to
it (as SIGUSR2 does). If the new one does not become ready, the old one goes on. Waits until it is done.""",
    "workers": """\
Show the workers of a running workerproxy, or have it run N of them (SIGTTIN and SIGTTOU: one more, one less). A worker
that is too many drains first.""",
}


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"not a number from 1 on: {text!r}")
    return int(text)


def _address(found: argparse.Namespace) -> AdminAddress:
    if found.admin is not None:
        return remote.parse_admin_address(found.admin)
    if found.admin_address_path is not None:
        return remote.address_in_file(found.admin_address_path)
    return remote.default_address() if found.config_path is None else remote.address_in_config(found.config_path)


# --- by signal


def _by_signal(found: argparse.Namespace) -> int:
    flag = "--pid" if found.pidfile is None else "--pidfile"
    number = _SIGNALS.get(found.command)
    instead = "use -c, --admin or --admin-address-path"
    if number is None:
        raise UsageError(f"{flag}: there is no signal for this; {instead}")
    if found.wait or (found.command == "reload" and found.dry_run):
        raise UsageError(f"{flag} sends a signal, and a signal has no answer to wait for; {instead}")
    pid = found.pid if found.pidfile is None else remote.pid_in_file(found.pidfile)
    remote.signal_main(pid, number)
    print(f"{found.command} asked of process {pid}; its log says what becomes of it")
    return EXIT_OK


# --- by the admin interface


def _reload(found: argparse.Namespace, address: AdminAddress) -> int:
    if not (found.wait or found.dry_run):
        return _show(found, remote.ask(address, "POST", "/reload?no_wait", found.timeout_s))
    target = "/reload?dry_run&format=json" if found.dry_run else "/reload?format=json"
    answer = remote.ask(address, "POST", target, found.timeout_s)
    result = _json_object(answer.body)
    if result is None:
        return _show(found, answer)
    return _show_reload(found, result)


def _show_reload(found: argparse.Namespace, result: Mapping[str, Any]) -> int:
    version = result.get("version", 0)
    if not result.get("ok"):
        errors = [str(error) for error in result.get("errors") or ["no reason is given"]]
        print("\n".join(errors), file=sys.stderr)
        number = f"{len(errors)} error{'s' if len(errors) > 1 else ''}"
        _complain(found, f"refused ({number}), version {version} stays active")
        return EXIT_FAILED
    changes, drains = result.get("changes") or [], result.get("drains") or []
    if result.get("dry_run"):
        lines = [f"dry run, version {version} stays active; {'this' if changes else 'nothing'} would change"]
        heading = "this would drain"
    else:
        lines = [f"version {version} is active" + ("" if changes else "; nothing changed")]
        heading = "draining"
    lines += [f"  {change}" for change in changes]
    if drains:
        lines += [heading, *(f"  {drain}" for drain in drains)]
    print("\n".join(lines))
    return EXIT_OK


def _roll(found: argparse.Namespace, address: AdminAddress) -> int:
    return _show(found, remote.ask(address, "POST", "/roll", found.timeout_s))


def _upgrade(found: argparse.Namespace, address: AdminAddress) -> int:
    return _show(found, remote.ask(address, "POST", "/upgrade", found.timeout_s))


def _workers(found: argparse.Namespace, address: AdminAddress) -> int:
    if found.count is not None:
        return _show(found, remote.ask(address, "POST", f"/workers?count={found.count}", found.timeout_s))
    answer = remote.ask(address, "GET", "/workers?format=json", found.timeout_s)
    processes = _json_object(answer.body) or {}
    rows = processes.pop("workers", None)
    if not isinstance(rows, list):
        return _show(found, answer)
    if processes:
        print("  ".join(f"{name} {value}" for name, value in processes.items()))
    print(table(rows))
    return EXIT_OK


_DO: Final[Mapping[str, Callable[[argparse.Namespace, AdminAddress], int]]] = MappingProxyType(
    {"reload": _reload, "roll": _roll, "upgrade": _upgrade, "workers": _workers}
)


def _json_object(text: str) -> dict[str, Any] | None:
    """None when it is something else: a page that only knows text, or an error."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


# --- what is said


def _show(found: argparse.Namespace, answer: Answer) -> int:
    """An answer in text, as it is."""
    text = answer.body.rstrip("\n")
    if answer.status < 400:
        if text:
            print(text)
        return EXIT_OK
    if answer.status == _NOT_FOUND:  # the rest of that answer is a list of all pages
        text = "this workerproxy does not know the command; is it an older version?"
    *before, last = text.splitlines() or [f"refused with status {answer.status}"]
    if before:
        print("\n".join(before), file=sys.stderr)
    _complain(found, last)
    return EXIT_FAILED


def _complain(found: argparse.Namespace, text: str) -> None:
    print(f"workerproxy {found.command}: {text}", file=sys.stderr)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line for each row under a line of column names; numbers to the right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    to_the_right = [all(isinstance(row.get(name, 0), int | float) for row in rows) for name in names]
    lines = []
    for line in cells:
        padded = zip(line, widths, to_the_right, strict=True)
        lines.append("  ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in padded))
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, separators=(",", ":"))
    return "-" if value is None else str(value)

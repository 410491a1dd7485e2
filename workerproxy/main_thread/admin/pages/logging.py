"""``POST /logging``: show and change log levels, in all processes. Loggers are the components that log here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerproxy.control.logging import LEVELS, component_levels, level_number
from workerproxy.main_thread.admin.page import Page, Param, Request, Response

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server

_USAGE: Final = f"""usage: /logging?<name>=<level> (change single level)
usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)
usage: /logging?level=<level> (change all levels)
levels: {" ".join(LEVELS)}\x20
"""


async def _answer(server: Server, request: Request) -> Response:
    try:
        level, components = _wanted(request.query)
    except ValueError as error:
        return Response(f"error: {error}\n\n{_USAGE}{_active()}", 400)
    if level or components:
        await server.operations.set_log_levels(level, components)
    return Response(_active())


def _wanted(query: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The level of all components ("" for none) and of single ones. Raises ``ValueError`` with Envoy's words."""
    if not query:
        return "", {}
    if len(query) > 1:
        raise ValueError("invalid number of parameters")
    ((name, value),) = query.items()
    if name == "level":
        _check_level(value)
        return value, {}
    wanted = dict(_pair(item) for item in value.split(",") if item) if name == "paths" else {name: value}
    known = component_levels()
    for component, level in wanted.items():
        if component not in known:
            raise ValueError("unknown logger name")
        _check_level(level)
    return "", wanted


def _pair(item: str) -> tuple[str, str]:
    name, found, level = item.partition(":")
    if not found or not name or not level:
        raise ValueError("empty logger name or empty logger level")
    return name, level


def _check_level(level: str) -> None:
    if level_number(level) is None:
        raise ValueError("unknown logger level")


def _active() -> str:
    lines = "".join(f"  {name}: {level}\n" for name, level in component_levels().items())
    return f"active loggers:\n{lines}\n"


PAGE: Final = Page(
    "/logging",
    "query/change logging levels",
    _answer,
    mutates=True,
    params=(
        Param("paths", "Change multiple logging levels by setting to <name1>:<level1>,<name2>:<level2>"),
        Param("level", "desired logging level, this will change all loggers's level", ("", *LEVELS)),
    ),
)

"""What an admin page is: a path, a line of help, a function from request to response. Envoy's name: ``UrlHandler``."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server

TEXT: Final = "text/plain; charset=UTF-8"
JSON: Final = "application/json"
HTML: Final = "text/html; charset=UTF-8"


@dataclass(frozen=True, slots=True)
class Request:
    """``query`` has the last value of each name, ``""`` for a name alone."""

    method: str
    path: str
    query: dict[str, str]

    @classmethod
    def of(cls, method: str, target: str) -> Request:
        parts = urlsplit(target)
        return cls(method, parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)))


@dataclass(frozen=True, slots=True)
class Response:
    """``afterwards`` is called when the response has been written: for pages that end the process."""

    body: str
    status: int = 200
    content_type: str = TEXT
    afterwards: Callable[[], None] | None = None


OK: Final = Response("OK\n")


def json_response(data: Any, status: int = 200) -> Response:
    """As Envoy prints protobuf JSON: indented by one space."""
    return Response(json.dumps(data, indent=1, ensure_ascii=False) + "\n", status, content_type=JSON)


@dataclass(frozen=True, slots=True)
class Param:
    name: str
    help: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """``answer(server, request)`` makes the response; a page that ``mutates`` is called with POST only."""

    path: str
    help: str
    answer: Callable[[Server, Request], Awaitable[Response]]
    mutates: bool = False
    params: tuple[Param, ...] = ()


def find_pages() -> dict[str, Page]:
    """Every page in ``pages/``, by path, in the order of ``/help``."""
    package = importlib.import_module(f"{__package__}.pages")
    names = [info.name for info in pkgutil.iter_modules(package.__path__)]
    found: list[Page] = []
    for name in names:
        module = importlib.import_module(f"{package.__name__}.{name}")
        found += getattr(module, "PAGES", None) or [module.PAGE]
    return {page.path: page for page in sorted(found, key=lambda page: page.path)}


def help_text(pages: dict[str, Page]) -> str:
    """The list of commands, as ``/help`` and an unknown path show it."""
    lines = ["admin commands are:"]
    for page in pages.values():
        lines.append(f"  {page.path}{' (POST)' if page.mutates else ''}: {page.help}")
        for param in page.params:
            choices = f"; One of ({', '.join(param.choices)})" if param.choices else ""
            lines.append(f"      {param.name}: {param.help}{choices}")
    return "\n".join(lines) + "\n"

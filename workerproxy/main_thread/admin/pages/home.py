"""``/``: the list of pages as HTML; commands that change something are buttons."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from workerproxy.main_thread.admin.page import HTML, Page, Param, Request, Response, find_pages

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server

_STYLE: Final = """
body { font-family: sans-serif; max-width: 60em; margin: 2em auto; }
table { border-collapse: collapse; width: 100%; }
td { padding: 4px 8px; text-align: left; vertical-align: top; }
tr.page { border-top: 1px solid #ddd; }
td.option { padding-left: 24px; }
"""


async def _answer(server: Server, request: Request) -> Response:
    rows = "\n".join(_row(page) for page in find_pages().values() if page.path != "/")
    body = (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<title>workerproxy admin</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>workerproxy</h1>\n<table>\n{rows}\n</table>\n</body>\n</html>\n"
    )
    return Response(body, content_type=HTML)


def _row(page: Page) -> str:
    name = page.path[1:]
    if page.mutates or page.params:
        method = "post" if page.mutates else "get"
        command = f"<form action='{name}' method='{method}' id='{name}'><button>{escape(name)}</button></form>"
    else:
        command = f"<a href='{name}'>{escape(name)}</a>"
    # A POST form cannot carry a query, which is where pages look: those options are only described.
    options = "".join(_option(name, param, page.mutates) for param in page.params)
    return f"<tr class='page'><td>{command}</td><td>{escape(page.help)}</td></tr>{options}"


def _option(page: str, param: Param, described_only: bool) -> str:
    if described_only:
        field = f"<code>?{escape(param.name)}=</code>"
    elif param.choices:
        choices = "".join(f"<option>{escape(choice)}</option>" for choice in ("", *param.choices))
        field = f"<select name='{param.name}' form='{page}'>{choices}</select>"
    else:
        field = f"<input name='{param.name}' form='{page}' placeholder='{param.name}'>"
    return f"<tr><td class='option'>{field}</td><td>{escape(param.help)}</td></tr>"


PAGE: Final = Page("/", "Admin home page", _answer)

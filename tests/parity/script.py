"""Play files: what each case sends and answers, as text. docs/parity.md, "How a play reads", is the manual.

A file begins with ``about:`` and defaults (``config:``, ``listener:``); each case begins with ``=== name``. In a case:

    key: value     config, listener, end, log, stats, takes, differs (see ``Case``)
    # text         why the case is there
    > text         the client sends this line with CRLF; lines in a row are one segment
    ! step         what the client does next (see ``STEPS``)
    < text         the origin answers this line with CRLF; lines in a row are one segment
    <! step        what the origin does next (see ``ANSWER_STEPS``)
    - line         only in Envoy's verdict      } the exact difference that ``differs:`` gives the reason for
    + line         only in workerproxy's        }

Escapes in sent text: ``\\r \\n \\t \\0 \\\\ \\xHH``; ``{text*number}`` repeats; ``\\c`` at the end leaves out the CRLF;
``{listener_port}`` is the port of the listener.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.origin import Answer, Close, Finish, Pause, Send, Step

PLAYS: Final = Path(__file__).with_name("plays")

# What the client can do; the number says how many words follow.
STEPS: Final = {
    "response": 0,  # read one response (also an informational one) to its end
    "head": 0,  # read the response to a HEAD request
    "close": 0,  # read until the proxy closes
    "text": 1,  # read until this text has come
    "segment": 0,  # what follows is a segment of its own; the bytes before it are given time to arrive
    "bytewise": 0,  # send what follows one byte at a time
    "pause": 1,  # wait so many seconds
    "origin": 1,  # wait until the origin has so many request heads
    "origin-text": 1,  # wait until the origin has received this text
    "connect": 0,  # a new connection, to the listener named if there is a word
    "fin": 0,  # half-close
    "reset": 0,  # close with RST
    "leave": 0,  # close with FIN
}
ANSWER_STEPS: Final = ("next", "head", "start", "accept", "segment", "pause", "close", "reset", "finish")
_ALLOWED: Final = {"end": ("probe", "quiet", "cut"), "origins": ("bytes", "shares")}


class PlayError(ValueError):
    """A play file that cannot be read; the text names file and line."""


class ClientStep(NamedTuple):
    """One step of the client. ``verb`` is a key of ``STEPS``, or ``send``."""

    verb: str
    word: str = ""
    data: bytes = b""


@dataclass
class Case:
    """One case.

    ``end``: how it is found out whether the connection is still open: ``probe`` sends one more request and wants it
    answered, ``quiet`` waits a little and sends nothing, ``cut`` does not look. ``log``: so many access-log lines are
    compared. ``stats``: counters whose growth is compared. ``takes``: seconds the script must last, with both proxies.
    ``origins``: ``bytes`` compares what each origin received, ``shares`` only how many requests each got (which one is
    first is random). ``differs``: why workerproxy's verdict differs from Envoy's, exactly by ``differences``.
    """

    name: str
    config: str = ""
    listener: str = "main"
    end: str = "probe"
    log: int = 0
    stats: list[str] = field(default_factory=list)
    takes: float = 0.0
    origins: str = "bytes"
    why: str = ""
    differs: str = ""
    differences: list[str] = field(default_factory=list)
    client: list[ClientStep] = field(default_factory=list)
    origin: list[Answer] = field(default_factory=list)
    text: str = ""

    @property
    def sent(self) -> bytes:
        """Every byte the script gives to the client or the origin to send."""
        client = b"".join(step.data for step in self.client)
        origin = b"".join(s.data for a in self.origin for s in a.steps if isinstance(s, Send))
        return client + origin


class Family(NamedTuple):
    """One play file: its name, what it is about, its cases in order."""

    name: str
    about: str
    cases: list[Case]


def read_families(folder: Path = PLAYS) -> list[Family]:
    """Every play file, ordered by name. Raises PlayError."""
    return [read_play(path) for path in sorted(folder.glob("*.play"))]


def read_plays(folder: Path = PLAYS) -> list[Case]:
    """Every case of every play file. Raises PlayError."""
    return [case for family in read_families(folder) for case in family.cases]


def read_play(path: Path) -> Family:
    """One file. The names of its cases begin with the file's name. Raises PlayError."""
    defaults: dict[str, str] = {}
    cases: dict[str, Case] = {}
    lines: list[str] = []
    name = ""
    for number, line in enumerate([*path.read_text().splitlines(), "=== "], 1):
        if not line.startswith("==="):
            lines.append(line)
            continue
        try:
            if name in cases:
                raise ValueError("another case has this name")
            if name:
                cases[name] = _Reader(Case(f"{path.stem}/{name}", text="\n".join(lines)), defaults).read(lines)
            else:
                defaults = dict(_key_value(text) for text in lines if text and text[0] != "#")
        except (ValueError, KeyError) as error:
            raise PlayError(f"{path.name}, case {name!r} before line {number}: {error}") from error
        name, lines = line[3:].strip(), []
    return Family(path.stem, defaults.get("about", ""), list(cases.values()))


class _Reader:
    """Builds one case, line by line."""

    def __init__(self, case: Case, defaults: dict[str, str]) -> None:
        self.case = case
        self._out: list[str] = []  # lines of the client's segment
        self._back: list[str] = []  # lines of the origin's segment
        self._answer: list[Step] = []
        self._when = "request"
        for key, value in defaults.items():
            if key != "about":
                self._set(key, value)

    def read(self, lines: list[str]) -> Case:
        kinds: dict[str, Callable[[str], None]] = {
            "# ": self._why,
            "> ": self._out.append,
            "! ": self._client_step,
            "< ": self._back.append,
            "<!": self._answer_step,
            "- ": lambda text: self.case.differences.append(f"- {text}"),
            "+ ": lambda text: self.case.differences.append(f"+ {text}"),
        }
        for line in filter(None, lines):
            mark, rest = (line + " ")[:2], line[2:]
            if mark != "> ":
                self._flush_client()
            if mark in kinds:
                kinds[mark](rest)
            else:
                self._set(*_key_value(line))
        self._flush_client()
        self._end_answer("request")
        if bool(self.case.differs) != bool(self.case.differences):
            raise ValueError("differs: and lines with - or + belong together")
        if all(step.verb == "send" for step in self.case.client):
            self.case.client.append(ClientStep("response"))
        return self.case

    def _why(self, text: str) -> None:
        self.case.why = f"{self.case.why} {text}".strip()

    def _set(self, key: str, value: str) -> None:
        if key in ("config", "listener", "end", "origins", "differs"):
            if value not in _ALLOWED.get(key, (value,)):
                raise ValueError(f"{key} is one of {_ALLOWED[key]}, not {value!r}")
            setattr(self.case, key, value)
        elif key == "log":
            self.case.log = int(value)
            self.case.end = "cut"
        elif key == "takes":
            self.case.takes = float(value)
        elif key == "stats":
            self.case.stats = value.split()
        else:
            raise ValueError(f"unknown key {key!r}")

    def _client_step(self, text: str) -> None:
        verb, _, word = text.strip().partition(" ")
        if verb not in STEPS or (STEPS[verb] and not word):
            raise ValueError(f"unknown step or missing word: {text!r}")
        self.case.client.append(ClientStep(verb, word))

    def _answer_step(self, text: str) -> None:
        verb, _, word = text.strip().partition(" ")
        if verb not in ANSWER_STEPS:
            raise ValueError(f"unknown step of the origin: {text!r}")
        if verb in ("next", "head", "start", "accept"):
            self._end_answer("request" if verb == "next" else verb)
            return
        self._flush_answer()
        if verb == "pause":
            self._answer.append(Pause(float(word)))
        elif verb == "finish":
            self._answer.append(Finish())
        elif verb == "segment":
            self._answer.append(Pause(0.02))
        else:
            self._answer.append(Close(reset=verb == "reset"))

    def _flush_client(self) -> None:
        if self._out:
            self.case.client.append(ClientStep("send", data=_bytes(self._out)))
            self._out.clear()

    def _flush_answer(self) -> None:
        if self._back:
            self._answer.append(Send(_bytes(self._back)))
            self._back.clear()

    def _end_answer(self, when: str) -> None:
        self._flush_answer()
        if self._answer:
            self.case.origin.append(Answer(self._answer, self._when))  # type: ignore[arg-type]
        self._answer, self._when = [], when


def _key_value(line: str) -> tuple[str, str]:
    key, colon, value = line.partition(":")
    if not colon or not key.isalpha():
        raise ValueError(f"not a line of a play: {line!r}")
    return key, value.strip()


_ESCAPE: Final = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)|\{([^{}]+)\*(\d+)\}")
_SIMPLE: Final = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\", b"c": b"", b"s": b" "}


def _bytes(lines: list[str]) -> bytes:
    return b"".join(_unescape(line) + (b"" if line.endswith("\\c") else b"\r\n") for line in lines)


def _unescape(line: str) -> bytes:
    def value(match: re.Match[bytes]) -> bytes:
        if match[2] is not None:
            return _unescape(match[2].decode("latin-1")) * int(match[3])
        return bytes([int(match[1][1:], 16)]) if match[1][:1] == b"x" and len(match[1]) == 3 else _SIMPLE[match[1]]

    return _ESCAPE.sub(value, line.encode())

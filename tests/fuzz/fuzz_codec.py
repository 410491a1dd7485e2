"""Coverage-guided fuzzing of both codecs: ``python tests/fuzz/fuzz_codec.py --seconds 30``.

The input is read as: one byte that chooses side and settings, one that says how the rest is cut into reads, then the
connection's bytes. What must hold for any input:

* nothing is raised: a fault is the ``error`` of a message, one of ``errors.py``;
* the cuts change nothing, and neither does reading in bulk instead of by callbacks;
* a message that is complete stays as it is, and nothing follows one that ends the connection.

Needs atheris (``pip install 'workerproxy[fuzz]'``). A corpus directory may be given; it begins with the fixtures.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["workerproxy.worker.http.codec"]):
    from tests.unit.codec import cases
    from workerproxy.worker.http.codec import errors
    from workerproxy.worker.http.codec.messages import CodecError
    from workerproxy.worker.http.codec.settings import DROP, REJECT, CodecSettings

SETTINGS = (
    CodecSettings(),
    CodecSettings(enable_trailers=True, max_headers_count=4),
    CodecSettings(headers_with_underscores_action=REJECT, accept_http_10=True, default_host_for_http_10=b"d"),
    CodecSettings(headers_with_underscores_action=DROP, allow_chunked_length=True, allow_absolute_url=False),
)
BY_CALLBACKS = tuple(replace(settings, bulk=False) for settings in SETTINGS)
DOCUMENTED = {(value.status, value.details) for value in vars(errors).values() if isinstance(value, CodecError)}
METHODS: tuple[list[str], ...] = (["GET"], ["HEAD"], ["GET", "GET", "HEAD"], [])


def check(data: bytes) -> None:
    """Run one input; raises AssertionError, or whatever a codec let through."""
    if len(data) < 3:
        return
    choice, cut, stream = data[0], data[1], data[2:]
    settings = SETTINGS[choice & 3]
    size = 1 + cut % 40
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    by_callbacks = BY_CALLBACKS[choice & 3]
    if choice & 4:
        methods, eof = METHODS[choice >> 3 & 3], bool(choice & 32)
        whole = cases.run_client(settings, [stream], methods[:1], eof=eof)
        assert cases.run_client(settings, pieces, methods[:1], eof=eof) == whole
        assert cases.run_client(by_callbacks, [stream], methods[:1], eof=eof) == whole
        bulk = cases.run_client(settings, pieces, methods, eof=eof)
        assert cases.run_client(by_callbacks, pieces, methods, eof=eof) == bulk
    else:
        whole = cases.run_server(settings, [stream])
        assert cases.run_server(settings, pieces) == whole
        assert cases.run_server(by_callbacks, [stream]) == whole
        twice = cases.run_server(settings, [stream, stream])
        assert cases.run_server(by_callbacks, [stream, stream]) == twice
    messages = whole["messages"]
    for number, message in enumerate(messages):
        error = message.get("error")
        assert error is None or tuple(error) in DOCUMENTED
        last = number == len(messages) - 1
        assert last or message.get("complete", True)
        assert last or message.get("keep_alive", True) or message.get("status", 200) < 200


def seeds() -> list[bytes]:
    """The fixtures as inputs, for every setting in turn."""
    return [
        bytes([number % 4 | (4 if case.side == "response" else 0), number % 256]) + case.data
        for number, case in enumerate(cases.load())
        if len(case.data) <= 2048
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=30, help="how long to run")
    parser.add_argument("--corpus", type=Path, help="directory to read inputs from and keep new ones in")
    options = parser.parse_args()
    for seed in seeds():
        check(seed)
    arguments = [sys.argv[0], f"-max_total_time={options.seconds}", "-max_len=2050", "-timeout=10"]
    if options.corpus is not None:
        options.corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (options.corpus / f"fixture-{number}").write_bytes(seed)
        arguments.append(str(options.corpus))
    atheris.Setup(arguments, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Both proxies side by side: ``python -m tests.parity.compare [--out FILE] [--once] [NAME ...]``.

What differs, grouped, for whoever works on workerproxy: cases that differ in the same lines stand together, the largest
group first. NAME selects cases that contain it.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections import defaultdict
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.parity.player import Player
from tests.parity.proxies import ENVOY, WORKERPROXY, Stage
from tests.parity.script import Case, read_plays

PATIENT: Final = 5.0  # the waits of the second run, which decides: a busy machine must not look like a difference
_NAMES_SHOWN: Final = 12


def start_both(config: str, threads: Executor) -> list[Stage]:
    """Envoy and workerproxy on ``config``. Raises AssertionError with the output of the one that would not start."""
    starting = [threads.submit(Stage, kind, config) for kind in (ENVOY, WORKERPROXY)]
    errors = [error for each in starting if (error := each.exception())]
    if not errors:
        return [each.result() for each in starting]
    for each in starting:
        if not each.exception():
            each.result().close()
    raise AssertionError(f"{config}.yaml: {errors[0]}")


def is_announced_refusal(case: Case, refusal: str) -> bool:
    """Whether the play says, by ``+ refused: words``, that workerproxy must not start on its configuration."""
    words = [line.removeprefix("+ refused: ") for line in case.differences if line.startswith("+ refused: ")]
    return bool(words) and all(each in refusal for each in words)


def unexpected_difference(case: Case, pair: list[Stage], threads: Executor, *, once: bool = False) -> list[str] | None:
    """The differing lines ('- ' Envoy's, '+ ' workerproxy's), or None when they are those the play announces.

    ``once``: the first run decides. Quick, for a first look at many differences.
    """
    found = _difference(case, pair, threads, patience=1.0)
    if found != case.differences and not once:
        found = _difference(case, pair, threads, patience=PATIENT)
    return None if found == case.differences else found


def _difference(case: Case, pair: list[Stage], threads: Executor, patience: float) -> list[str]:
    envoy, ours = threads.map(lambda stage: Player(case, stage, patience).play(), pair)
    return [line for line in difflib.ndiff(envoy, ours) if line[:2] in ("- ", "+ ")]


def compare(cases: list[Case], *, once: bool = False) -> dict[tuple[str, ...], list[str]]:
    """Differing lines -> names of the cases. A configuration that does not start counts as one difference."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    with ThreadPoolExecutor(2) as threads:
        for config in sorted({case.config for case in cases}):
            chosen = [case for case in cases if case.config == config]
            try:
                pair = start_both(config, threads)
            except AssertionError as error:
                refused = [case.name for case in chosen if not is_announced_refusal(case, str(error))]
                if refused:
                    groups[(str(error),)] += refused
                continue
            try:
                for case in chosen:
                    found = unexpected_difference(case, pair, threads, once=once)
                    if found is not None:
                        groups[tuple(found) or ("announced, but there is no difference",)].append(case.name)
            finally:
                for stage in pair:
                    stage.close()
    return groups


def shown(groups: dict[tuple[str, ...], list[str]]) -> str:
    """The groups as text, the largest first."""
    parts = []
    for lines, names in sorted(groups.items(), key=lambda item: -len(item[1])):
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        parts.append("\n".join([f"=== {len(names)}: {' '.join(names[:_NAMES_SHOWN])}{more}", *lines]))
    return "\n\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--once", action="store_true", help="no second, slower run of what differs")
    options = parser.parse_args()
    cases = [case for case in read_plays() if not options.names or any(name in case.name for name in options.names)]
    groups = compare(cases, once=options.once)
    differing = sum(map(len, groups.values()))
    text = f"{shown(groups)}\n\n{len(cases) - differing} of {len(cases)} cases are as expected\n"
    options.out.write_text(text) if options.out else print(text)
    return 1 if groups else 0


if __name__ == "__main__":
    sys.exit(main())

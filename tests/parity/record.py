"""Write what one proxy does in every case, as text.

``python -m tests.parity.record [--proxy workerproxy] [--out DIR] [NAME ...]``

One text file per play file; a case is shown with its script and the verdict. NAME selects cases that contain it.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Final

from tests.parity.player import Player
from tests.parity.proxies import ENVOY, WORKERPROXY, Stage
from tests.parity.script import Case, read_plays

OUT: Final = Path("/tmp/parity-envoy")


def record(cases: list[Case], proxy: str, out: Path) -> None:
    """Play ``cases`` and write their verdicts below ``out``."""
    kind = ENVOY if proxy == "envoy" else WORKERPROXY
    shown: dict[str, str] = {}

    def play_config(config: str) -> None:
        with Stage(kind, config) as stage:
            for case in [case for case in cases if case.config == config]:
                verdict = "\n".join(Player(case, stage).play())
                shown[case.name] = f"=== {case.name}\n{case.text.strip()}\n--- {proxy}\n{verdict}\n"

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(play_config, sorted({case.config for case in cases})))
    out.mkdir(parents=True, exist_ok=True)
    for family, members in groupby(cases, lambda case: case.name.split("/")[0]):
        (out / f"{family}.txt").write_text("\n".join(shown[case.name] for case in members))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--proxy", choices=("envoy", "workerproxy"), default="envoy")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    cases = [case for case in read_plays() if not options.names or any(name in case.name for name in options.names)]
    record(cases, options.proxy, options.out)
    print(f"{len(cases)} cases -> {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

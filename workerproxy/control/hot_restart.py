"""Which hand-over between two main processes this program speaks: ``--hot-restart-version``, as Envoy has it."""

from __future__ import annotations

from typing import Final

HOT_RESTART_VERSION: Final = "workerproxy.1"
"""Two programs that print the same can take over from each other. Never one of Envoy's own versions (``11.104``)."""

HOT_RESTART_DISABLED: Final = "disabled"
"""What stands in its place with ``--disable-hot-restart``."""

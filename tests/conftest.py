"""What holds for every test: how long one may take is decided by pytest-timeout, not by hypothesis.

On a shared machine a single example may be slow for no fault of its own, so hypothesis has no deadline. Under CI it
takes the same examples every time; elsewhere each run looks at new ones.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

"""Locust scenarios, one file each; ``python -m loadtests.run NAME`` plays one."""

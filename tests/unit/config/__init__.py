"""Tests of ``workerproxy.config``."""

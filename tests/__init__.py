"""Tests: unit (mirrors the package), integration (real processes and sockets), parity (against Envoy), support."""

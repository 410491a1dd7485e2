"""Parity with Envoy: the same YAML and the same bytes through both proxies. docs/parity.md describes it."""

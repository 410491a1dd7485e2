"""Helpers for tests with real processes and sockets: ports, processes, scripted origin, raw client, both proxies."""

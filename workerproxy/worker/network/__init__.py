"""Sockets and events: dispatcher, listener, connection, splice. Knows bytes, not HTTP."""

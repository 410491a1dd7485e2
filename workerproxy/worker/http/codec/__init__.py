"""HTTP/1.1 on the wire: bytes to messages (``server_codec``, ``client_codec``) and back (``encoder``). No I/O.

Envoy's name: ``Http::Http1`` (``source/common/http/http1``). Sockets, timers, streams and hop-by-hop header removal are
the connection manager's and the router's; what is here decides only where a message ends and whether it may pass.
"""

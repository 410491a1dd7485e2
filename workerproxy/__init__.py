"""An HTTP/1.1 reverse proxy with Envoy's architecture and configuration: one main process, N workers, five steps.

See ARCHITECTURE.md. ``main_thread`` is the main process, ``worker`` a worker; ``config``, ``control``, ``extensions``
and ``http`` are what both share.
"""

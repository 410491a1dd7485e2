"""The main process: starts and watches workers, owns the sockets, reloads, resolves, answers admin. Sees no request."""

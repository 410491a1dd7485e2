"""Query strings, as Envoy reads them: ``&`` between parameters, the first ``=`` after the name, nothing decoded.

Envoy's name: ``Http::Utility::QueryParamsMulti``. Used by route matching and by ``%QUERY_PARAM(…)%``.
"""

from __future__ import annotations


def first_values(query: bytes) -> dict[bytes, bytes]:
    """The first value of each parameter; b"" for one without ``=``. ``query`` is what follows the ``?``."""
    parameters: dict[bytes, bytes] = {}
    pieces = query.split(b"&")
    if not pieces[-1]:
        pieces.pop()  # what a trailing "&" leaves is no parameter; an empty one before it is
    for piece in pieces:
        name, _, value = piece.partition(b"=")
        parameters.setdefault(name, value)
    return parameters

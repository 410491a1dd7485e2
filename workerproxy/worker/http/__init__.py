"""Steps 1 and 5: connection manager, stream, filter manager, header rules, and the HTTP/1 codecs below them."""

"""The vocabulary of a request, without I/O: header maps, stream info, outcomes, formats, matchers."""

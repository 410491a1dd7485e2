"""HTTP filters. A module here is a filter; nothing lists it."""

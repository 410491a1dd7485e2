"""Steps 2 to 4: route table, router filter, upstream request."""

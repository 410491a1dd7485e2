"""One file, one page: each module has a ``PAGE``, and is found by being here. To add a page is to add a file."""

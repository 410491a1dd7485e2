"""``python -m workerproxy``: the same as the console script."""

from workerproxy.cli import main_entry

if __name__ == "__main__":
    main_entry()

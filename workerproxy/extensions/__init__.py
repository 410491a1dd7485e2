"""Extensions: one file is one feature, found by its configuration type (``registry.py``); interfaces in ``base.py``."""

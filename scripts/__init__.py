"""Programs for those who work on workerproxy or try it from a checkout; no part of the package."""

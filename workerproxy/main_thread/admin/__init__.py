"""The admin pages, served by the main process: ``server`` speaks HTTP, ``pages/`` has one file for each page."""

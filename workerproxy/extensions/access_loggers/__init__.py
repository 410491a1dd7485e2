"""Access loggers. A module here is one; those beginning with an underscore are what they share."""

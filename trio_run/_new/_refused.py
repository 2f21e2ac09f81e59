"""Refused: how each of the other files says that a project can't be written."""


class Refused(Exception):
    """A sentence that says what can't be done, and what can."""

"""The one error class of the library: a mistake that a user can mend."""

__all__ = ["DeepsepError", "MissingExtra"]


class DeepsepError(Exception):
    """Says in one line what was found and what to do; the command line prints it and exits with 1."""


class MissingExtra(DeepsepError):
    """A file or a format needs a package that is not installed."""

"""The one error class of the library: a mistake that a user can mend; and how a lack of memory shows."""

__all__ = ["DeepsepError", "MissingExtra", "is_out_of_memory"]


class DeepsepError(Exception):
    """Says in one line what was found and what to do; the command line prints it and exits with 1."""


class MissingExtra(DeepsepError):
    """A file or a format needs a package that is not installed."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, as Python or as PyTorch tells it."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error))

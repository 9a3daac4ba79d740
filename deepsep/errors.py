"""The one error class of the library: a mistake that a user can mend; how a refused file and a lack of memory show."""

import errno
import re

__all__ = ["DeepsepError", "MissingExtra", "is_out_of_memory", "refusal"]

FULL = "make room there, or choose another place"
MANY = "raise the limit on open files (ulimit -n)"
ADVICE = {  # what to do where the system refuses a file, by its reason
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another disk",
    errno.EMFILE: MANY,
    errno.ENFILE: MANY,
}


class DeepsepError(Exception):
    """Says in one line what was found and what to do; the command line prints it and exits with 1."""


class MissingExtra(DeepsepError):
    """A file or a format needs a package that is not installed."""


SAFETENSORS = re.compile(  # how it tells what the system told it, today and formerly
    r"I/O error: (?P<new>.+?) \(os error (?P<number>\d+)\)|Os { code: (?P<code>\d+), .*?message: \"(?P<old>[^\"]+)"
)


def refusal(name: object, error: Exception, what: str = "written") -> DeepsepError:
    """The error for a file or a folder that the system refuses, as Python, libsndfile or safetensors tells it."""
    number, reason = getattr(error, "errno", None), getattr(error, "strerror", None)
    if told := SAFETENSORS.search(str(error)):
        reason, number = told["new"] or told["old"], int(told["number"] or told["code"])
    reason = reason or getattr(error, "error_string", error)
    advice = ADVICE.get(number or 0, "check its permissions, or choose another place")
    return DeepsepError(f"{name}: cannot be {what} ({reason}); {advice}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, as Python or as PyTorch tells it."""
    if isinstance(error, RuntimeError):
        return re.search("out of memory|allocate|not enough memory", str(error)) is not None
    return isinstance(error, MemoryError)

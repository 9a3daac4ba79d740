"""Child processes of tests, whatever starts them: with default signals, in a group that ends with the test.

A shell that runs the tests in the background has them ignore Ctrl-C, and what ignores a signal bequeaths that to its
children. A child that outlives its test slows the next ones down. No wait is short: only a program that hangs meets it.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import ClassVar

PATIENCE = 600  # seconds


def take_signals() -> None:
    """Has this process mind the signals it was told to ignore; a hangup it goes on to ignore, unlike its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)  # such a handler is not inherited


class Child(subprocess.Popen):
    """`subprocess.Popen` that leads a group and is remembered."""

    started: ClassVar[list["Child"]] = []

    def __init__(self, *words, **options) -> None:
        options.setdefault("start_new_session", True)
        super().__init__(*words, **options)
        self.started.append(self)

    def end(self) -> None:
        """Ends it with all of its group; first by SIGTERM, as torchrun's workers have groups of their own."""
        if self.poll() is None:
            self.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.wait(10)
        end_group(self.pid)
        self.wait()
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe:
                with suppress(OSError):
                    pipe.close()


def end_group(leader: int) -> None:
    """Kills what is left of a group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def is_there(group: int) -> bool:
    """Whether a process of the group is alive."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def children_end() -> Iterator[None]:
    """For a fixture: ends what was started while it was in use."""
    before = list(Child.started)
    yield
    for child in [child for child in Child.started if child not in before]:
        child.end()
        Child.started.remove(child)


def until(condition: Callable[[], object], process: subprocess.Popen | None = None) -> None:
    """Waits for a condition, or for the end of the process that is to bring it about."""
    end = time.monotonic() + PATIENCE
    while not condition() and (process is None or process.poll() is None):
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)

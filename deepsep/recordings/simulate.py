"""Endless training examples made by processes beside the training."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset

from ..errors import DeepsepError

__all__ = ["simulate_in_workers"]

E = TypeVar("E")


def simulate_in_workers(
    make: Callable[[torch.Generator], Iterator[E]], seed: int, *, workers: int, draws: int
) -> Iterator[list[E]]:
    """Endless lists of `draws` examples of `make`, by so many processes. `make` must be picklable."""
    loader = DataLoader(
        Endless(make, seed), batch_size=None, num_workers=workers,
        prefetch_factor=4 if workers else None, multiprocessing_context="spawn" if workers else None,
    )  # fmt: skip
    with started_quietly():
        source = iter(loader)
    while True:
        try:
            drawn = list(islice(source, draws))
        except (RuntimeError, ConnectionError, EOFError) as error:
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            raise DeepsepError(
                "a process that simulates mixtures was ended from outside; --workers 0 does without"
            ) from error
        yield drawn


@dataclass
class Endless(IterableDataset[E], Generic[E]):
    """What a worker process runs: `make`, with a generator of its own."""

    make: Callable[[torch.Generator], Iterator[E]]
    seed: int

    def __iter__(self) -> Iterator[E]:
        worker = torch.utils.data.get_worker_info()
        if worker:
            torch.set_num_threads(1)
        return self.make(torch.Generator().manual_seed(self.seed + (worker.id if worker else 0)))


@contextmanager
def started_quietly() -> Iterator[None]:
    """Processes started within ignore Ctrl-C, which a terminal sends to all of them: this process ends them.

    Nor does one that dies interrupt this process wherever it is, as DataLoader would have it: the next example says so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, getattr(signal, "SIGCHLD", None))
        if number
    }
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

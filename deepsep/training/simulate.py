"""Mixtures simulated from solo recordings of each source, endlessly, by processes beside the training."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from ..config import SpectrumConfig
from ..errors import DeepsepError
from ..recordings.banks import Mixtures, Note, Progress, SampleBank, simulate
from ..spectral.spectrum import Spectrum

__all__ = ["BLOCK", "HELD_OUT", "fresh_seed", "joined", "mixture_batches", "solo_banks"]

HELD_OUT = 0.08  # share of the recordings that no step sees
BLOCK = 45  # seconds of a part of a recording that is held out, or not, as a whole


def solo_banks(
    sources: Sequence[str],
    data: Mapping[str, Sequence[Path]],
    rate: int,
    cache: Path,
    on_files: Progress | None,
    on_note: Note | None,
) -> tuple[list[SampleBank], list[SampleBank]]:
    """For each source its recordings to train on, and those held out."""
    banks, unseen = [], []
    for source in sources:
        whole = SampleBank.build(data[source], rate, cache / source, on_progress=on_files, on_note=on_note)
        bank, test_bank = whole.split(HELD_OUT, BLOCK * rate)
        banks.append(bank)
        unseen.append(test_bank)
    return banks, unseen


def fresh_seed(rng: torch.Generator, resumed: Path | None) -> int:
    """A seed for simulated mixtures; of a run resumed from a checkpoint, other mixtures than those before."""
    seed = int(torch.randint(2**31, (1,), generator=rng))
    return seed + int(resumed.stat().st_mtime) if resumed else seed


def mixture_batches(
    banks: list[SampleBank],
    spectrum: SpectrumConfig,
    each: int,
    frames: int,
    seed: int,
    workers: int,
    draws: int,
) -> Iterator[Mixtures]:
    """Endless batches, each of `draws` stretches of sound with `each` mixtures of them, from so many processes."""
    loader = DataLoader(
        Endless(banks, spectrum, each, frames, seed), batch_size=None, num_workers=workers,
        prefetch_factor=4 if workers else None, multiprocessing_context="spawn" if workers else None,
    )  # fmt: skip
    with unheard():
        source = iter(loader)
    while True:
        try:
            drawn = list(islice(source, draws))
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DeepsepError(
                "a process that simulates mixtures was ended from outside; --workers 0 does without"
            ) from error
        yield joined(drawn)


class Endless(IterableDataset[Any]):
    """Simulated mixtures for a worker process, reseeded by the run's generator."""

    def __init__(
        self, banks: list[SampleBank], spectrum: SpectrumConfig, batch: int, frames: int, seed: int
    ) -> None:
        self.banks, self.spectrum, self.batch, self.frames, self.seed = banks, spectrum, batch, frames, seed

    def __iter__(self) -> Iterator[Mixtures]:
        worker = torch.utils.data.get_worker_info()
        if worker:
            torch.set_num_threads(1)
        rng = torch.Generator().manual_seed(self.seed + (worker.id if worker else 0))
        return simulate(self.banks, Spectrum(self.spectrum), frames=self.frames, batch=self.batch, rng=rng)


@contextmanager
def unheard() -> Iterator[None]:
    """Processes started within do not hear Ctrl-C, which a terminal sends to all: this one ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if kept is None else kept)


def joined(drawn: list[Mixtures]) -> Mixtures:
    """Several batches as one."""
    names = Mixtures.__dataclass_fields__
    return Mixtures(*(torch.cat([getattr(m, name) for m in drawn]) for name in names))

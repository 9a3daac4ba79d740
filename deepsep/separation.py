"""The whole route: samples -> one gain -> frames -> windows -> sampler or encoder -> stems.

Shape suffixes: s draw, k stem, c audio channel, t sample, d band, n frame. Streams in, streams out: memory does not
grow with the track.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .audio.loudness import Loudness
from .inference import chunks
from .inference.domain import Separation, Track
from .inference.memory import infer_in_memory

__all__ = ["measure", "read_twice", "separate_blocks"]

Samples = NDArray[np.float32]
OnSpread = Callable[[Tensor, Tensor], None]


def measure(blocks_ct: Iterable[Samples], rate: int) -> Track:
    """The first pass over a track: its length, and the loudness by which the second divides it."""
    loudness = Loudness()
    for block in blocks_ct:
        loudness.add(block)
    return Track(rate, loudness.samples, loudness.rms)


def separate_blocks(
    blocks_ct: Iterable[Samples],
    separation: Separation,
    *,
    on_spread: OnSpread | None = None,
    on_progress: Callable[[int], None] | None = None,
    on_batch_size: Callable[[int], None] | None = None,
) -> Iterator[Samples]:
    """The second pass: blocks float32 (c, t) -> stems float32 (s, k, c, t), as long together as the track.

    on_spread is called with the standard deviation (k, d, n) of the stems' Wiener gains and the mixture's power (d, n),
    frames in order, where the separation asks for it; on_progress with how many samples are done, work under way
    included; on_batch_size with how many windows fit into memory at a time, where that is not what the settings say.
    A silent track has silent stems.
    Raises DeepsepError for settings that do not fit the model's domain.
    """
    separation.model.domain.check(separation.settings, spread=separation.spread)
    done = told = 0

    def tell(samples: int) -> None:
        nonlocal told
        if on_progress and samples > told:
            told = samples
            on_progress(samples)

    silent = separation.track.rms == 0
    if silent:
        pieces = separate_silence(blocks_ct, separation)
    else:
        pieces = route(blocks_ct, separation, on_spread, tell, on_batch_size)
    for piece in pieces:
        done += piece.shape[-1]
        yield piece
        tell(done)


def separate_silence(blocks_ct: Iterable[Samples], separation: Separation) -> Iterator[Samples]:
    """Silent stems of a silent track."""
    for block in blocks_ct:
        yield np.zeros((separation.settings.draws, len(separation.groups), *block.shape), np.float32)


def read_twice(blocks_ct: Iterable[Samples]) -> tuple[Iterator[Samples], Iterator[Samples]]:
    """Two readers of one stream: a block is held until both have had it (by itertools.tee, until 57 more have come)."""
    source = iter(blocks_ct)
    waiting: tuple[deque[Samples], deque[Samples]] = (deque(), deque())

    def more() -> bool:
        for block in source:
            for queue in waiting:
                queue.append(block)
            return True
        return False

    def reader(own: deque[Samples]) -> Iterator[Samples]:
        while own or more():
            yield own.popleft()

    return reader(waiting[0]), reader(waiting[1])


def route(
    blocks_ct: Iterable[Samples],
    separation: Separation,
    on_spread: OnSpread | None,
    tell: Callable[[int], None],
    on_batch_size: Callable[[int], None] | None,
) -> Iterator[Samples]:
    """Each step of the route, for a track that is not silent."""
    domain, settings = separation.model.domain, separation.settings
    blocks_ct, mixture_ct = read_twice(blocks_ct)  # the second is read along as stems come out
    core, context, fade, total = domain.layout(separation)
    frames = domain.analyse(blocks_ct, separation)
    windows = chunks.windows(frames, core, context)
    done = 0  # frames

    def infer(batch: Sequence[chunks.Window]) -> Sequence[chunks.Planes]:
        nonlocal done
        length = sum(window.length for window in batch)

        def part(share: float) -> None:
            tell(int(separation.track.samples * min(total, done + share * length) / total))

        found = domain.infer(batch, replace(separation, on_part=part))
        done += length
        return found

    estimates = infer_in_memory(windows, infer, settings.batch_size, settings.device, on_size=on_batch_size)

    def stems_only(joined: Iterable[tuple[Tensor, chunks.Planes]]) -> Iterator[tuple[Tensor, Tensor]]:
        for frames_cn, (stems, *spread) in joined:
            if spread and on_spread:
                on_spread(*spread)
            yield frames_cn, stems
            del frames_cn, stems  # or they were in memory while the next are worked out

    joined = chunks.join(estimates, core, context, fade)
    yield from domain.synthesise(stems_only(joined), chunks.Reader(mixture_ct), separation)

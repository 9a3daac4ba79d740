"""A stream of frames cut into windows with context, and estimates on those windows joined again.

Shape suffixes: c audio channel, f bin, k stem, d band, n frame.

Window i is trusted on frames [i core, (i + 1) core) and sees `context` frames more on either side; beyond the signal
lies its mirror image, which sounds like it and not like an end. The last window is cut to what is left, in multiples of
ALIGN frames. Estimates fade into one another over `fade` frames about each border, with weights that sum to 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["ALIGN", "Planes", "Reader", "Window", "batched", "join", "windows"]

ALIGN = 32  # frames; networks that halve frames need lengths and starts that divide


Planes = tuple[Tensor, ...]  # what is estimated of a window, each (..., n)


class Window(NamedTuple):
    """A stretch of frames (c, f, context + core + context), with the number of its first and how many are of the core.

    From its frame `end` on it is the mirror image of the signal's end, as it is of its beginning before frame 0.
    """

    frames_cfn: Tensor
    first: int
    length: int
    end: int


def windows(frames_cfn: Iterable[Tensor], core: int, context: int) -> Iterator[Window]:
    """Cut consecutive frames into windows; beyond either end of the signal lies its mirror image."""
    span, first = core + 2 * context, -context
    store: Tensor | None = None  # filled from the left; the first `context` frames of the first window last
    have, started = context, False
    for piece in frames_cfn:
        store = room(piece, span) if store is None else store
        while piece.shape[-1] >= span - have:
            store[..., have:], piece = piece[..., : span - have], piece[..., span - have :]
            if not started:
                store[..., :context] = store[..., context + 1 : 2 * context + 1].flip(-1)
            yield Window(store, first, core, span)
            following = room(store, span)
            following[..., : 2 * context] = store[..., core:]
            store, have, first, started = following, 2 * context, first + core, True
            del following
        store[..., have : have + piece.shape[-1]] = piece
        have += piece.shape[-1]
    if store is None:
        return
    held = store[..., :have]
    if not started:
        held, have = held[..., context:], have - context
        length = min(core, -(-have // ALIGN) * ALIGN)
        if have <= core and length <= 2 * have - 1:  # one window: both mirror images at once
            frames = mirrored(held, context, length + context - have)
            yield Window(frames, first, have, context + have)
            return
        held = mirrored(held, context, 0)
    while (left := held.shape[-1] - context) > 0:
        length = min(core, -(-left // ALIGN) * ALIGN)
        padded = mirrored(held, 0, max(0, length + context - left))
        frames = padded[..., : length + 2 * context]
        yield Window(frames, first, min(left, core), min(held.shape[-1], frames.shape[-1]))
        held = held[..., core:]
        first += core


def room(like: Tensor, frames: int) -> Tensor:
    """Uninitialised memory for so many frames such as these; those of an STFT lie outermost, as it gives them."""
    if like.ndim < 3:
        return like.new_empty(*like.shape[:-1], frames)
    return like.new_empty(*like.shape[:-2], frames, like.shape[-2]).transpose(-1, -2)


def mirrored(x: Tensor, before: int, after: int) -> Tensor:
    """More frames at both ends of (..., n), reflected at the outermost ones as often as it takes."""
    if before == after == 0:
        return x
    period = max(1, 2 * (x.shape[-1] - 1))
    at = torch.arange(-before, x.shape[-1] + after, device=x.device).remainder(period)
    at = torch.minimum(at, period - at)
    if x.ndim < 3:
        return x[..., at]
    return x.transpose(-1, -2).index_select(-2, at).transpose(-1, -2)


def batched(items: Iterable[Window], size: int) -> Iterator[list[Window]]:
    """Lists of up to `size` windows of one length."""
    batch: list[Window] = []
    for item in items:
        if batch and item.frames_cfn.shape != batch[0].frames_cfn.shape:
            yield batch
            batch = []
        batch.append(item)
        del item  # or it was in memory while the next is made
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def join(
    estimates: Iterable[tuple[Window, Planes]], core: int, context: int, fade: int
) -> Iterator[tuple[Tensor, Planes]]:
    """Join the windows' estimates: consecutive (frames (c, f, n), planes (..., n)), each frame once.

    fade is even and at most twice the context and at most the core; 0 switches at the border.
    """
    half = fade // 2
    if half > context or fade > core:
        raise ValueError(f"fade {fade} must be within core {core} and twice the context {context}")
    rise = (torch.arange(fade) + 0.5) / max(fade, 1)
    tails: Planes = ()  # the last estimate about the border that comes next
    held: tuple[Tensor, Planes] | None = None  # frames before that border: theirs only if no window follows
    for window, planes in estimates:
        # index 0 lies half a fade before the window's first border, index `core` as much before its second
        frames = window.frames_cfn[..., context - half : context + window.length]
        bodies = [plane[..., context - half : context + core + half] for plane in planes]
        start = half
        if tails:
            bodies = [cross_fade(tail, body, rise) for tail, body in zip(tails, bodies, strict=True)]
            start = 0
        tails = tuple(body[..., core:] for body in bodies)
        end = max(start, window.length)
        if end > start:
            yield frames[..., start:end], tuple(body[..., start:end] for body in bodies)
        held = frames[..., end:].clone(), tuple(body[..., end : frames.shape[-1]] for body in bodies)
        del window, planes, frames, bodies  # or they were in memory while the next are worked out
    if held is not None and held[0].shape[-1]:
        yield held


def cross_fade(tail: Tensor, body: Tensor, rise: Tensor) -> Tensor:
    """`body` with its first frames faded in over those of `tail`."""
    mixed = tail * (1 - rise).to(body) + body[..., : len(rise)] * rise.to(body)
    return torch.cat([mixed, body[..., len(rise) :]], -1)


class Reader:
    """A stream of blocks (c, t), read in pieces of any length."""

    def __init__(self, blocks_ct: Iterable[NDArray[np.float32]]) -> None:
        self.blocks = iter(blocks_ct)
        self.held: NDArray[np.float32] | None = None

    def take(self, length: int) -> NDArray[np.float32]:
        """The next `length` samples (c, length), fewer at the end."""
        parts = [] if self.held is None else [self.held]
        have = sum(part.shape[-1] for part in parts)
        while (have < length or not parts) and (block := next(self.blocks, None)) is not None:
            parts.append(block)
            have += block.shape[-1]
        joined = np.concatenate(parts, -1)
        self.held = joined[:, length:]
        return joined[:, :length]

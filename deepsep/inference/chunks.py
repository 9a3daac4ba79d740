"""A stream of frames cut into windows with context, and estimates on those windows joined again.

Shape suffixes: c audio channel, f bin, k stem, d band, n frame.

Window i is trusted on frames [i core, (i + 1) core) and sees `context` frames more on either side; beyond the signal
lies its mirror image, which sounds like it and not like an end. The last window is cut to what is left, in multiples of
ALIGN frames. Estimates fade into one another over `fade` frames about each border, with weights that sum to 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ALIGN", "Window", "batched", "join", "windows"]

ALIGN = 32  # frames; networks that halve frames need lengths and starts that divide


class Window(NamedTuple):
    """A stretch of frames: (c, f, context + core + context), its first frame, and how many of the core are real.

    From its frame `end` on it is the mirror image of the signal's end, as it is of its beginning before frame 0.
    """

    spectra: Tensor
    first: int
    frames: int
    end: int


def windows(spectra_cfn: Iterable[Tensor], core: int, context: int) -> Iterator[Window]:
    """Cuts consecutive frames into windows; beyond either end of the signal lies its mirror image."""
    held: Tensor | None = None
    begun = False
    first = -context
    for piece in spectra_cfn:
        held = piece if held is None else torch.cat([held, piece], -1)
        if not begun and held.shape[-1] > context:
            held, begun = mirrored(held, context, 0), True
        while begun and held.shape[-1] >= core + 2 * context:
            yield Window(held[..., : core + 2 * context].clone(), first, core, core + 2 * context)
            held = held[..., core:]
            first += core
    if held is None:
        return
    if not begun:
        held = mirrored(held, context, 0)
    while (left := held.shape[-1] - context) > 0:
        length = min(core, -(-left // ALIGN) * ALIGN)
        padded = mirrored(held, 0, max(0, length + context - left))
        spectra = padded[..., : length + 2 * context].clone()
        yield Window(spectra, first, min(left, core), min(held.shape[-1], spectra.shape[-1]))
        held = held[..., core:]
        first += core


def mirrored(x: Tensor, before: int, after: int) -> Tensor:
    """More frames at both ends of (..., n), reflected at the outermost ones as often as it takes."""
    period = max(1, 2 * (x.shape[-1] - 1))
    at = torch.arange(-before, x.shape[-1] + after, device=x.device).remainder(period)
    return x[..., torch.minimum(at, period - at)]


def batched(items: Iterable[Window], size: int) -> Iterator[list[Window]]:
    """Lists of up to `size` windows of one length."""
    batch: list[Window] = []
    for item in items:
        if batch and item.spectra.shape != batch[0].spectra.shape:
            yield batch
            batch = []
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def join(
    estimates: Iterable[tuple[Window, Tensor]], core: int, context: int, fade: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows with their estimates (k, d, n) -> consecutive (spectra (c, f, n), estimate (k, d, n)), each frame once.

    fade is even and at most twice the context and at most the core; 0 switches at the border.
    """
    half = fade // 2
    if half > context or fade > core:
        raise ValueError(f"fade {fade} must be within core {core} and twice the context {context}")
    rise = (torch.arange(fade) + 0.5) / max(fade, 1)
    tail: Tensor | None = None  # the last estimate about the border that comes next
    held: tuple[Tensor, Tensor] | None = None  # frames before that border: theirs only if no window follows
    for window, estimate in estimates:
        # index 0 lies half a fade before the window's first border, index `core` as much before its second
        frames = window.spectra[..., context - half : context + window.frames]
        body = estimate[..., context - half : context + core + half]
        start = half
        if tail is not None:
            mixed = tail * (1 - rise).to(body) + body[..., :fade] * rise.to(body)
            body, start = torch.cat([mixed, body[..., fade:]], -1), 0
        tail = body[..., core:]
        end = max(start, window.frames)
        if end > start:
            yield frames[..., start:end], body[..., start:end]
        held = frames[..., end:], body[..., end : frames.shape[-1]]
    if held is not None and held[0].shape[-1]:
        yield held

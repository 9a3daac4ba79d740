"""How many windows a device takes at a time: what fits into its memory, tried or measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from ..errors import DeepsepError, is_out_of_memory
from .chunks import Planes, Window, batched

__all__ = ["MOST_WINDOWS", "infer_in_memory", "windows_that_fit"]

MOST_WINDOWS = 32  # of a batch whose size is found; more keep no GPU busier
SHARE = 0.8  # of the free memory to plan with: batches differ, and allocators leave gaps

Infer = Callable[[Sequence[Window]], Sequence[Planes]]


def infer_in_memory(
    windows: Iterable[Window],
    infer: Infer,
    size: int | None,
    device: str,
    *,
    on_size: Callable[[int], None] | None = None,
) -> Iterator[tuple[Window, Planes]]:
    """Each window with its estimate, `size` windows at a time; as many as fit into a GPU's free memory for None.

    A batch that does not fit is halved, and so are those after it. on_size is called with each size that is found.
    Raises DeepsepError where a single window does not fit.
    """
    windows = iter(windows)
    if size is None:
        first = next(windows, None)
        if first is None:
            return
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield first, alone(infer, first)
        size = windows_that_fit(free_memory(device), torch.cuda.max_memory_allocated(device) - before)
        if on_size:
            on_size(size)
    for batch in batched(windows, size):
        while batch:
            part = batch[:size]
            found = attempt(infer, part) if len(part) > 1 else [alone(infer, part[0])]
            if found is None:
                size = len(part) // 2
                if on_size:
                    on_size(size)
                continue
            yield from zip(part, found, strict=True)
            batch = batch[len(part) :]
            del part, found  # or they were in memory while the next are worked out


def alone(infer: Infer, window: Window) -> Planes:
    """The estimate of one window. Raises DeepsepError where it does not fit into memory."""
    found = attempt(infer, [window])
    if found is None:
        raise DeepsepError("the GPU's memory is full with one window at a time; use --device cpu")
    return found[0]


def attempt(infer: Infer, windows: Sequence[Window]) -> Sequence[Planes] | None:
    """The windows' estimates, or None where they do not fit into memory together."""
    try:
        return infer(windows)
    except RuntimeError as error:  # what the failed attempt holds goes with it
        if not is_out_of_memory(error) or "CPUAllocator" in str(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def windows_that_fit(free: int, each: int) -> int:
    """How many windows of `each` bytes go into `free` bytes, with room to spare; at least one."""
    return max(1, min(MOST_WINDOWS, int(SHARE * free / max(each, 1))))


def free_memory(device: str) -> int:
    """Bytes that a GPU has left for this process, those that its allocator keeps among them."""
    free: int = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)

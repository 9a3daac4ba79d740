"""Change the sample rate with soxr, of a whole signal or of a stream.

Shape suffixes: c channel, t sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from .info import Samples

__all__ = ["resample", "resample_blocks"]


def resample(samples_ct: Samples, rate: int, to_rate: int) -> Samples:
    """Band-limited resampling of (c, t) from `rate` to `to_rate`, both in Hz; it adds no delay."""
    if rate == to_rate:
        return samples_ct
    import soxr

    out: Samples = soxr.resample(np.ascontiguousarray(samples_ct.T), rate, to_rate).T
    return np.ascontiguousarray(out, dtype=np.float32)


def resample_blocks(blocks: Iterable[Samples], rate: int, to_rate: int) -> Iterator[Samples]:
    """`resample` for a stream of (c, t) blocks, in constant memory."""
    if rate == to_rate:
        yield from blocks
        return
    import soxr

    stream = None
    for block in blocks:
        if stream is None:
            stream = soxr.ResampleStream(rate, to_rate, block.shape[0], dtype="float32")
        out = stream.resample_chunk(np.ascontiguousarray(block.T))
        if len(out):
            yield np.ascontiguousarray(out.T)
    if stream is not None:
        rest = stream.resample_chunk(np.zeros((0, block.shape[0]), np.float32), last=True)
        if len(rest):
            yield np.ascontiguousarray(rest.T)

"""Where a training computes, and in which precision."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

__all__ = ["Compute", "bfloat16_pays"]

PROBE = 384  # channels of the convolution that is timed
PAYS = 1.15  # times faster that bfloat16 must be to be worth it


@dataclass(frozen=True, slots=True)
class Compute:
    """A device, and the reduced precision of networks there, None for single precision.

    Of a training in several processes this is number `part` of `parts`. `run` is torchrun's name for it, the same
    `again`, after a restart.
    """

    device: torch.device = torch.device("cpu")  # noqa: RUF009 (never changed)
    dtype: torch.dtype | None = None
    part: int = 0
    parts: int = 1
    run: str = ""
    again: bool = False

    @property
    def leads(self) -> bool:
        """Whether this process writes and talks for all."""
        return self.part == 0

    def autocast(self) -> AbstractContextManager[object]:
        """Within, networks compute in `dtype`."""
        return torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)


def bfloat16_pays() -> bool:
    """Whether this CPU runs convolutions in bfloat16 faster than in single precision, by trying both.

    Some have instructions for it (AVX512-BF16, AMX); others imitate it, many times slower.
    """
    kernel, x = torch.zeros(PROBE, PROBE, 3), torch.zeros(8, PROBE, 64)

    def seconds(dtype: torch.dtype) -> float:
        tried = []
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            for _ in range(4):
                began = time.perf_counter()
                torch.nn.functional.conv1d(x, kernel)
                tried.append(time.perf_counter() - began)
        return min(tried)

    return seconds(torch.float32) > PAYS * seconds(torch.bfloat16)

"""Random numbers for a batch of examples, of which a process may have only a part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Draws"]


@dataclass(frozen=True, slots=True)
class Draws:
    """A generator, shared by `parts` processes that each have one part of a batch, in order.

    All of them draw the same numbers and use those of their own examples, so that a training in several processes
    is the training of one with the whole batch. A shape is that of this process's part; `batch` is its dimension of
    examples.
    """

    rng: torch.Generator
    part: int = 0
    parts: int = 1

    def normal(self, shape: Sequence[int], device: torch.device, batch: int = 0) -> Tensor:
        """Standard normal numbers."""
        return self.own(
            torch.randn(self.whole(shape, batch), generator=self.rng, device=device), shape, batch
        )

    def uniform(self, shape: Sequence[int], device: torch.device, batch: int = 0) -> Tensor:
        """Numbers between 0 and 1."""
        return self.own(torch.rand(self.whole(shape, batch), generator=self.rng, device=device), shape, batch)

    def chance(self, odds: float) -> bool:
        """True with this probability; alike in every process."""
        return float(torch.rand((), generator=self.rng, device=self.rng.device)) < odds

    def once_in(self, times: int) -> bool:
        """True once in so many calls, on average; alike in every process."""
        return int(torch.randint(times, (1,), generator=self.rng, device=self.rng.device)) == 0

    def whole(self, shape: Sequence[int], batch: int) -> list[int]:
        """The shape of the whole batch."""
        sizes = list(shape)
        sizes[batch] *= self.parts
        return sizes

    def own(self, drawn: Tensor, shape: Sequence[int], batch: int) -> Tensor:
        """This process's part."""
        return drawn.narrow(batch, self.part * shape[batch], shape[batch])

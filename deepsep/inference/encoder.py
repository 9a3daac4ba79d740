"""The amortized posterior q(x_1..x_K | m) of any domain: a network whose output has one part for each stem.

Shape suffixes: b batch, k stem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["AmortizedPosterior"]


class AmortizedPosterior(nn.Module):
    """What the domains' encoders share: the configuration, and stems in any order.

    A subclass computes `planes`, (b, 2, k, ...): what its means are made of, and log standard deviations. `spread` has
    a factor for each stem, in their order, that makes the standard deviations of its draws those of its errors.
    """

    def __init__(self, config: Any, stems: int) -> None:
        super().__init__()
        self.config, self.stems = config, stems
        self.order: list[int] | None = None
        self.spread: list[float] | None = None

    def reorder(self, order: Sequence[int]) -> None:
        """Give the stems in another order: stem order[i] of the training comes as number i."""
        self.order = list(order)
        if self.spread is not None:
            self.spread = [self.spread[i] for i in order]

    def ordered(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """The two planes (b, k, ...), stems in the order wanted."""
        first, second = planes.unbind(1)
        if self.order is None:
            return first, second
        return first[:, self.order], second[:, self.order]

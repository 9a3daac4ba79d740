"""Figures of stems, called by their sources' names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..inference.domain import Task

__all__ = ["named_by_source"]

Figures = dict[str, float]


def named_by_source(task: Task, sources: Sequence[str]) -> Task:
    """The same task whose figures are called "SDR vocals" instead of "SDR 0"."""
    names = {f"SDR {k}": f"SDR {s}" for k, s in enumerate(sources)}

    def named(figures: Figures) -> Figures:
        return {names.get(k, k): v for k, v in figures.items()}

    def loss(module: Any, batch: Any, rng: torch.Generator) -> tuple[Tensor, Figures]:
        value, figures = task.loss(module, batch, rng)
        return value, named(figures)

    return task._replace(loss=loss, evaluate=lambda average: named(task.evaluate(average)))

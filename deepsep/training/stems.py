"""Figures of stems, called by their sources' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from ..inference.domain import Task
from ..inference.draws import Draws
from ..inference.losses import Figures

__all__ = ["named_by_source"]

V = TypeVar("V")


def named_by_source(task: Task, sources: Sequence[str]) -> Task:
    """The same task whose figures are called "SDR vocals" instead of "SDR 0"."""
    names = {f"SDR {k}": f"SDR {s}" for k, s in enumerate(sources)}

    def named(figures: Mapping[str, V]) -> dict[str, V]:
        return {names.get(k, k): v for k, v in figures.items()}

    def loss(module: Any, batch: Any, draws: Draws) -> tuple[Tensor, Figures]:
        value, figures = task.loss(module, batch, draws)
        return value, named(figures)

    return task._replace(loss=loss, evaluate=lambda average: named(task.evaluate(average)))

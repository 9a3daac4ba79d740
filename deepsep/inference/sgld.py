"""Stochastic gradient Langevin dynamics, annealed over noise levels (thesis Algorithm 2, corrected).

    x <- x + eta grad log p_sigma(x | m) + sqrt(2 eta T) eps,   eta = delta precision(x, sigma)^-1

With the prior's precision I / sigma^2 alone this is BASIS' eta = delta sigma^2 (Jayaram & Thickstun 2020); where the
mixture says more, the step is as much smaller: the precision bounds the likelihood's curvature for any number of
sources and at any weight, so delta < 2 is stable. On samples it is exact, and only the sum of the sources has
the shorter step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import SgldConfig
from .posterior import Posterior

__all__ = [
    "Info",
    "Noise",
    "State",
    "anneal",
    "frame_noise",
    "init",
    "late_iterates",
    "mirrored_noise",
    "noise_levels",
    "step",
    "window_noise",
]

BLOCK = 32  # frames that share one generator

Noise = Callable[[int], Tensor]  # step number -> standard normal noise in the position's shape


class State(NamedTuple):
    """What the next step needs."""

    position: Tensor
    step: int


class Info(NamedTuple):
    """What an estimate or a log needs: the noise level, the denoised position, the mean square of the move."""

    sigma: float
    denoised: Tensor
    moved: Tensor


def init(position: Tensor) -> State:
    """A chain's start."""
    return State(position, 0)


def step(
    state: State,
    posterior: Posterior,
    sigma: float,
    *,
    step_size: float,
    temperature: float,
    noise: Noise,
    largest: float = math.inf,
) -> tuple[State, Info]:
    """One Langevin step at noise level sigma; `noise` is not called at temperature 0.

    The score moves no coordinate by more than `largest`.
    """
    x = state.position
    drift = posterior.drift(x, sigma)
    move = (step_size * drift.precision.solve(drift.score)).clamp(-largest, largest)
    after = x + move
    if temperature > 0:
        after = after + (2 * temperature * step_size) ** 0.5 * drift.precision.solve_root(noise(state.step))
    return State(after, state.step + 1), Info(sigma, drift.denoised, move.square().mean())


def noise_levels(config: SgldConfig) -> list[float]:
    """sigma_1 > ... > sigma_L, geometric."""
    if config.levels == 1:
        return [config.sigma_max]
    ratio = (config.sigma_min / config.sigma_max) ** (1 / (config.levels - 1))
    return [config.sigma_max * ratio**i for i in range(config.levels)]


def anneal(
    start: Tensor, posterior: Posterior, config: SgldConfig, noise: Noise
) -> Iterator[tuple[State, Info]]:
    """Every iterate of an annealed chain, `levels * steps` in all."""
    state = init(start)
    for sigma in noise_levels(config):
        for _ in range(config.steps):
            state, info = step(
                state, posterior, sigma,
                step_size=config.step_size, temperature=config.temperature, noise=noise,
                largest=config.largest_move(sigma),
            )  # fmt: skip
            yield state, info


def late_iterates(
    start: Tensor,
    posterior: Posterior,
    config: SgldConfig,
    noise: Noise,
    on_part: Callable[[float], None] | None = None,
) -> Iterator[Info]:
    """The last `config.average` iterates of an annealed chain, from which its estimate is made.

    `on_part` is called after each step with the share of the chain that is done.
    """
    for state, info in anneal(start, posterior, config, noise):
        if on_part:
            on_part(state.step / (config.levels * config.steps))
        if state.step > config.burn_in:
            yield info


def frame_noise(
    seed: int, chain: int, first_frame: int, shape_kdn: tuple[int, int, int], device: torch.device
) -> Noise:
    """Noise that belongs to absolute frames: windows that share frames share their noise, whatever the batch."""
    k, d, n = shape_kdn
    first_block, last_block = first_frame // BLOCK, (first_frame + n - 1) // BLOCK

    def draw(number: int) -> Tensor:
        blocks = []
        for block in range(first_block, last_block + 1):
            mixed = (seed * 1_000_003 + chain * 10_007 + number) * 2_000_003 + block
            rng = torch.Generator(device).manual_seed(mixed % (2**63))
            blocks.append(torch.randn(k, d, BLOCK, generator=rng, device=device))
        offset = first_frame - first_block * BLOCK
        return torch.cat(blocks, -1)[..., offset : offset + n]

    return draw


def window_noise(seed: int, chains: Sequence[int], first: Sequence[int], start: Tensor) -> Noise:
    """`frame_noise` for a batch whose rows are chains `chains[i]` in windows from frame `first[i]` on, like `start`."""
    k, d, n = start.shape[1:]
    draws = [
        frame_noise(seed, chain, at, (k, d, n), start.device) for chain, at in zip(chains, first, strict=True)
    ]
    return lambda number: torch.stack([draw(number) for draw in draws]).to(start)


def mirrored_noise(seed: int, chains: Sequence[int], first: Sequence[int], start: Tensor) -> Noise:
    """`window_noise` for chains in pairs, each with its neighbour's noise of the opposite sign.

    What noise does to one chain of a pair it undoes, to first order, in their mean: antithetic variates
    (Hammersley and Morton, 1956). Each is a chain like any other.
    """
    noise = window_noise(seed, [chain // 2 for chain in chains], first, start)
    sign = start.new_tensor([-1.0 if chain % 2 else 1.0 for chain in chains])[:, None, None, None]
    return lambda number: sign * noise(number)

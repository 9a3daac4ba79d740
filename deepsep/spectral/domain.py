"""The spectral domain: priors of log band powers, Wiener masks on the mixture's STFT.

Shape suffixes: b batch, s draw, k stem, c audio channel, t sample, f STFT bin, d band, n frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, starmap
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import (
    PRIOR_FRAMES,
    ContrastTraining,
    EncoderTraining,
    PriorTraining,
    SpectralEncoderConfig,
    SpectralFlowConfig,
    SpectralSgldConfig,
    SpectrumConfig,
    TrainConfig,
    from_dict,
    to_dict,
)
from ..errors import DeepsepError
from ..flows.flow import Flow
from ..inference import chunks
from ..inference.domain import Examples, Layout, OnPart, Separation, Sound, Task, TaskRun
from ..inference.encoder import AmortizedPosterior
from ..inference.model import Model
from ..inference.settings import Settings
from ..progress import Listener
from ..recordings.banks import HELD_OUT
from ..recordings.files import Folders
from .encoder import UNet
from .flow import build_flow
from .infer import SGLD_CONTEXT, Inference
from .powers import PowerBank
from .sonify import sonify
from .spectrum import CACHED, Spectrum, spectrum_at
from .training import contrast_task, encoder_task

__all__ = ["SpectralDomain"]

Samples = NDArray[np.float32]

CORE = 256  # frames of a window that count, about; more where the context is wide
CONTEXTS = 4  # then so many times the context: more is faster, and takes memory
END_CONTEXT = 96  # frames of mirror image about a track of one window: more is slower, and no better
SGLD_CONTEXTS = 3  # of a chain's window, whose gradients take memory too
SGLD_FADE = 32
EDGE = 16  # frames at either end of a draw that know less than the others
WHITENING_FRAMES = 20000  # of data that the whitening is fitted on, at least
INIT_SIGMA = 0.3  # noise level at which ActNorms are initialised


@dataclass(frozen=True, kw_only=True, slots=True)
class SpectralDomain:
    """Priors of x, the log band powers of an STFT (see `inference.domain.Domain`)."""

    name: ClassVar[str] = "spectral"
    half: ClassVar[bool] = True
    several_pitches: ClassVar[bool] = True
    can_contrast: ClassVar[bool] = True
    sigmas: ClassVar[Sequence[float]] = (0.1, 0.3, 1.0)

    spectrum: SpectrumConfig = field(default_factory=SpectrumConfig)

    @property
    def rate(self) -> int:
        """See `Domain`."""
        return self.spectrum.rate

    def to_config(self) -> dict[str, Any]:
        """See `Domain`."""
        return {"domain": self.name, "spectrum": to_dict(self.spectrum)}

    # networks

    def flow_config(self, raw: Any) -> SpectralFlowConfig:
        """See `Domain`."""
        return from_dict(SpectralFlowConfig, raw)

    def build_flow(self, config: SpectralFlowConfig, rng: torch.Generator | None = None) -> Flow:
        """See `Domain`."""
        self.spectrum.check_bands("flow", config.channels)
        return build_flow(config, rng)

    def encoder_config(self, raw: Any) -> SpectralEncoderConfig:
        """See `Domain`."""
        if isinstance(raw, Mapping):
            raw = {"bands": self.spectrum.bands, **raw}
        return from_dict(SpectralEncoderConfig, raw)

    def build_encoder(self, config: SpectralEncoderConfig, stems: int) -> AmortizedPosterior:
        """See `Domain`."""
        self.spectrum.check_bands("encoder", config.bands)
        return UNet(config, stems).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    # separation

    def sgld(
        self, *, draws: bool = False, uncertainty: bool = False, from_encoder: bool = False
    ) -> SpectralSgldConfig:
        """See `Domain`."""
        return SpectralSgldConfig.default(draws=draws, uncertainty=uncertainty, from_encoder=from_encoder)

    def check(self, settings: Settings, *, spread: bool) -> None:
        """See `Domain`."""
        given = type(settings.sgld)
        if settings.method == "sgld" and given is not SpectralSgldConfig:
            raise DeepsepError(f"{given.__name__} is for waveform priors; give a SpectralSgldConfig")

    def layout(self, separation: Separation) -> Layout:
        """See `Domain`. The cores of a track are alike: a short one's windows share a batch, none is mostly context."""
        encoder, settings = separation.model.encoder, separation.settings
        deep = encoder.config.context if encoder is not None else 0
        if settings.method == "encoder":
            context, fade, contexts = deep, 0, CONTEXTS
        else:
            context, fade = max(SGLD_CONTEXT, deep if settings.init == "encoder" else 0), SGLD_FADE
            contexts = SGLD_CONTEXTS
        frames = self.spectrum_of(separation).frames(separation.track.samples)
        number = max(1, round(frames / max(CORE, contexts * context)))
        if number == 1 and settings.method == "encoder":
            context = min(context, END_CONTEXT)
        core = -(-frames // (number * chunks.ALIGN)) * chunks.ALIGN
        return Layout(core, context, fade, frames)

    def spectrum_of(self, separation: Separation) -> Spectrum:
        """The STFT at the track's rate."""
        return spectrum_at(self.spectrum, separation.track.rate, separation.settings.device)

    def analyse(self, blocks_ct: Iterable[Samples], separation: Separation) -> Iterator[Tensor]:
        """See `Domain`: STFT frames (c, f, n)."""
        rms, device = separation.track.rms, separation.settings.device
        scaled = (
            torch.from_numpy(np.ascontiguousarray(block / rms)).float().to(device) for block in blocks_ct
        )
        return self.spectrum_of(separation).analyse_stream(scaled)

    @torch.no_grad()
    def infer(self, windows: Sequence[chunks.Window], separation: Separation) -> Sequence[chunks.Planes]:
        """See `Domain`: the stems' Wiener gains (s, k, d, n)."""
        context = self.layout(separation).context
        inference = Inference.of(windows, separation, self.spectrum_of(separation), context)
        return list(inference.estimates(separation.groups, spread=separation.spread))

    def synthesise(
        self, joined: Iterable[tuple[Tensor, Tensor]], mixture: chunks.Reader, separation: Separation
    ) -> Iterator[Samples]:
        """See `Domain`: a stem is its gains times the mixture's STFT.

        Where the stems are all of the sources, the last is what the others leave of the mixture.
        """
        spectrum, track = self.spectrum_of(separation), separation.track
        sources = sorted(source for group in separation.groups for source in group)
        whole = len(separation.groups) > 1 and sources == list(range(len(separation.model.sources)))
        own = slice(0, -1 if whole else None)

        def mask(frames_cfn: Tensor, gain_skdn: Tensor) -> Tensor:
            return spectrum.mask(frames_cfn, track.rms * gain_skdn[:, own, None])

        # unlike loops, these hold no frames while the next are worked out
        stems = starmap(mask, chain.from_iterable(starmap(short_pieces, joined)))
        for stems_skct in spectrum.synthesise_stream(stems):
            mix_ct = mixture.take(stems_skct.shape[-1])
            piece = stems_skct[..., : mix_ct.shape[-1]].cpu().numpy()
            if whole:
                piece = np.concatenate([piece, (mix_ct - piece.sum(1))[:, None]], 1, dtype=np.float32)
            if piece.shape[-1]:
                yield piece

    def sonify(
        self,
        flow: Flow,
        samples: int,
        *,
        sigma: float,
        temperature: float,
        iterations: int,
        rng: torch.Generator,
        on_part: OnPart | None = None,
    ) -> Sound:
        """See `Domain`: log band powers drawn, with a phase made up by Griffin and Lim's iterations."""
        spectrum = Spectrum(self.spectrum, device=str(flow.mean_spectrum.device))
        frames = spectrum.frames(samples)
        total = -(-(frames + 2 * EDGE) // 8) * 8
        x_dn = flow.sample(1, total, sigma, rng, temperature)[0, :, EDGE : EDGE + frames]
        if not x_dn.isfinite().all():
            return Sound(x_dn[0], self.rate)
        sound = sonify(x_dn, spectrum, samples, iterations=iterations, rng=rng, on_part=on_part)
        return Sound(sound, self.rate)

    # training

    def check_training(self, training: TrainConfig, network: Any = None) -> None:
        """See `Domain`."""
        multiple = 1 if network is None else network.multiple
        if training.frames is not None and training.frames % multiple:
            raise DeepsepError(f"the frames of an example must be a multiple of {multiple}")

    def examples(
        self, folders: Folders, training: PriorTraining, cache: Path, rng: torch.Generator, listener: Listener
    ) -> Examples:
        """See `Domain`: x of all recordings at a few speeds."""
        frames = training.frames or PRIOR_FRAMES
        bank = PowerBank.build(folders, Spectrum(self.spectrum), cache, listener)
        train, test = bank.split(HELD_OUT)
        unseen = test.batches(16, frames, torch.Generator().manual_seed(1))
        held_out = torch.cat([next(unseen) for _ in range(2)])
        return Examples(train.batches(training.batch, frames, rng), held_out, bank.hours)

    def score_scale(self, flow: Flow, sigma_b: Tensor) -> Tensor:
        """See `Domain`: all alike."""
        return torch.ones_like(sigma_b)

    def initialise(self, flow: Flow, examples: Examples, rng: torch.Generator) -> None:
        """See `Domain`."""
        flow.initialise(examples.take(WHITENING_FRAMES), INIT_SIGMA, rng)

    def encoder_task(
        self, model: Model, folders: Mapping[str, Folders], training: EncoderTraining, run: TaskRun
    ) -> Task:
        """See `Domain`."""
        return encoder_task(model, folders, training, run)

    def contrast_task(
        self, model: Model, folders: Mapping[str, Folders], training: ContrastTraining, run: TaskRun
    ) -> Task:
        """See `Domain`."""
        return contrast_task(model, folders, training, run)


def short_pieces(frames_cfn: Tensor, gains_skdn: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The same frames in shorter pieces, so that many draws of a track need no more memory than one."""
    step = max(8, CACHED // len(gains_skdn))
    for at in range(0, frames_cfn.shape[-1], step):
        yield frames_cfn[..., at : at + step], gains_skdn[..., at : at + step]

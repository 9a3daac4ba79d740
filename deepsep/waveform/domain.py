"""The time domain: waveform priors, whose stems are samples that sum to the mixture's.

Shape suffixes: b batch, s draw, k stem, c audio channel, t sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..audio.resampling import resample_blocks
from ..config import (
    ContrastTraining,
    EncoderTraining,
    PriorTraining,
    SpectrumConfig,
    TrainConfig,
    WaveformConfig,
    WaveformEncoderConfig,
    WaveformFlowConfig,
    WaveformSgldConfig,
    from_dict,
    to_dict,
)
from ..errors import DeepsepError
from ..flows.flow import Flow
from ..inference import chunks
from ..inference.domain import Examples, Layout, OnPart, Separation, Sound, Task, TaskRun
from ..inference.encoder import AmortizedPosterior
from ..inference.mixture import project
from ..inference.model import Model
from ..inference.settings import Settings
from ..progress import Listener, part_of
from ..recordings.banks import HELD_OUT
from ..recordings.files import Folders
from ..spectral.spectrum import Spectrum
from .encoder import WaveformEncoder
from .flow import build_flow
from .infer import separate_samples
from .training import build_bank, encoder_task

__all__ = ["WaveformDomain"]

Samples = NDArray[np.float32]

WHITENING_SAMPLES = 200000  # that the whitening is fitted on, at least
INIT_SIGMA = 0.1  # noise level at which ActNorms are initialised
TEST_STRETCHES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class WaveformDomain:
    """Waveform priors at a rate of their own (see `inference.domain.Domain`)."""

    name: ClassVar[str] = "waveform"
    half: ClassVar[bool] = False  # samples are predicted to a hundredth, half precision is too coarse
    several_pitches: ClassVar[bool] = False
    can_contrast: ClassVar[bool] = False
    sigmas: ClassVar[Sequence[float]] = (0.01, 0.129, 1.0)

    waveform: WaveformConfig = field(default_factory=WaveformConfig)
    spectrum: SpectrumConfig = field(default_factory=SpectrumConfig)

    @property
    def rate(self) -> int:
        """See `Domain`."""
        return self.waveform.rate

    def to_config(self) -> dict[str, Any]:
        """See `Domain`."""
        return {"domain": self.name, "spectrum": to_dict(self.spectrum), "waveform": to_dict(self.waveform)}

    # networks

    def flow_config(self, raw: Any) -> WaveformFlowConfig:
        """See `Domain`."""
        return from_dict(WaveformFlowConfig, raw)

    def build_flow(self, config: WaveformFlowConfig, rng: torch.Generator | None = None) -> Flow:
        """See `Domain`."""
        self.spectrum.check_bands("flow", config.bands)
        return build_flow(config, rng)

    def encoder_config(self, raw: Any) -> WaveformEncoderConfig:
        """See `Domain`."""
        return from_dict(WaveformEncoderConfig, raw)

    def build_encoder(self, config: WaveformEncoderConfig, stems: int) -> AmortizedPosterior:
        """See `Domain`."""
        return WaveformEncoder(config, stems)

    # separation

    def sgld(
        self, *, draws: bool = False, uncertainty: bool = False, from_encoder: bool = False
    ) -> WaveformSgldConfig:
        """See `Domain`."""
        return WaveformSgldConfig.default(draws=draws, uncertainty=uncertainty, from_encoder=from_encoder)

    def check(self, settings: Settings, *, spread: bool) -> None:
        """See `Domain`."""
        given = type(settings.sgld)
        if settings.method == "sgld" and given is not WaveformSgldConfig:
            raise DeepsepError(f"{given.__name__} is for priors of bands; give a WaveformSgldConfig")
        if spread:
            raise DeepsepError(
                "waveform priors have no Wiener gains whose spread could be shown; use --samples to hear it"
            )

    def layout(self, separation: Separation) -> Layout:
        """See `Domain`: windows as long as the priors were trained on, fading over their whole context."""
        context = self.waveform.window // 8
        track = separation.track
        total = -(-track.samples * self.rate // track.rate)
        return Layout(self.waveform.window - 2 * context, context, context, total)

    def gain(self, separation: Separation) -> float:
        """What a track is divided by to have the level of the priors."""
        return separation.track.rms if self.waveform.level == "relative" else 1.0

    def analyse(self, blocks_ct: Iterable[Samples], separation: Separation) -> Iterator[Tensor]:
        """See `Domain`: samples (c, t) at the priors' rate and level."""
        gain, device = self.gain(separation), separation.settings.device
        blocks = (np.ascontiguousarray(block, np.float32) for block in blocks_ct)
        for piece in resample_blocks(blocks, separation.track.rate, self.rate):
            yield torch.from_numpy(piece / gain).float().to(device)

    @torch.no_grad()
    def infer(self, windows: Sequence[chunks.Window], separation: Separation) -> Sequence[chunks.Planes]:
        """See `Domain`: samples (s, k, c, t) of every source, each channel on its own.

        They are 0 where a window reaches past the signal: its mirror image runs backwards in time, which priors of
        samples would hear.
        """
        model, settings = separation.model, separation.settings
        spans = [(max(0, -window.first), window.end) for window in windows]
        shape = (settings.draws, len(model.sources))
        stems = [w.frames_cfn.new_zeros(*shape, *w.frames_cfn.shape) for w in windows]
        for number, (start, end) in enumerate(kinds := sorted(set(spans))):
            tell = part_of(number, len(kinds), separation.on_part)
            own = [i for i, span in enumerate(spans) if span == (start, end)]
            rows = torch.cat([windows[i].frames_cfn[:, start:end] for i in own])
            first = [windows[i].first + start for i in own for _ in windows[i].frames_cfn]
            found = separate_samples(rows, model, settings, first=first, on_part=tell)
            for i, part_cskt in zip(own, found.chunk(len(own)), strict=True):
                stems[i][..., start:end] = part_cskt.permute(1, 2, 0, 3)
        return [(stem,) for stem in stems]

    def synthesise(
        self, joined: Iterable[tuple[Tensor, Tensor]], mixture: chunks.Reader, separation: Separation
    ) -> Iterator[Samples]:
        """See `Domain`: the samples at the track's rate.

        What the priors' rate cannot hold, the mixture above its Nyquist frequency and the error of resampling, is
        shared out alike among the sources, so that they sum to the mixture at any rate.
        """
        gain = self.gain(separation)
        shape = (separation.settings.draws, len(separation.model.sources))
        flat = ((stems_skct.flatten(0, 2) * gain).cpu().numpy() for _, stems_skct in joined)
        for piece in resample_blocks(flat, self.rate, separation.track.rate):
            mix_ct = mixture.take(piece.shape[-1])
            stems = piece[:, : mix_ct.shape[-1]].reshape(*shape, *mix_ct.shape)
            yield complete(stems, mix_ct, separation.groups)
        rest = mixture.take(separation.track.samples)  # resampled twice, a signal may end some samples early
        if rest.shape[-1]:
            yield complete(np.zeros((*shape, *rest.shape), np.float32), rest, separation.groups)

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
        """See `Domain`: the draw itself; samples need no phase made up, so `iterations` has nothing to do."""
        total = -(-samples // flow.config.multiple) * flow.config.multiple
        return Sound(flow.sample(1, total, sigma, rng, temperature)[0, 0, :samples], self.rate)

    # training

    def check_training(self, training: TrainConfig, network: Any = None) -> None:
        """See `Domain`."""
        if training.frames is not None:
            raise DeepsepError(
                "examples of samples are as long as the waveform's window; leave the frames out"
            )
        if isinstance(training, EncoderTraining) and training.objective == "remix":
            raise DeepsepError("the objective remix is for priors of bands")
        if network is not None and self.waveform.window % network.multiple:
            raise DeepsepError(
                f"the window of the waveform must be a multiple of {network.multiple} samples, the network's squeeze"
            )

    def examples(
        self, folders: Folders, training: PriorTraining, cache: Path, rng: torch.Generator, listener: Listener
    ) -> Examples:
        """See `Domain`: stretches of samples."""
        window, vary = self.waveform.window, self.waveform.level == "relative"
        whole = build_bank(self.waveform, folders, cache.name, TaskRun(cache.parent, rng, listener))
        train, unseen = whole.split(HELD_OUT)
        steady = torch.Generator().manual_seed(1)
        spectrum = Spectrum(self.spectrum, self.rate)
        long = train.stretches(64, 4 * spectrum.n_fft, steady, vary=vary)
        power = spectrum.band_power(spectrum.stft(long).abs().square()).mean((0, 2))
        held_out = unseen.stretches(TEST_STRETCHES, window, steady, vary=vary)[:, None]
        batches = train.batches(training.batch, window, rng, vary=vary)
        return Examples(batches, held_out, whole.hours, spectrum.to_x(power[:, None])[:, 0])

    def score_scale(self, flow: Flow, sigma_b: Tensor) -> Tensor:
        """See `Domain`: 1 + sigma^2 / var(x).

        This makes the error that of the denoised samples, relative to the lesser of x and the noise (Karras et al.
        2022): a chain starts where the noise is far above the signal.
        """
        return 1 + sigma_b**2 / flow.whitening.variance.mean()

    def initialise(self, flow: Flow, examples: Examples, rng: torch.Generator) -> None:
        """See `Domain`."""
        if flow.spectrum is not None and examples.mean_spectrum is not None:
            flow.spectrum.copy_(examples.mean_spectrum)
        flow.initialise(examples.take(WHITENING_SAMPLES), INIT_SIGMA, rng)

    def encoder_task(
        self, model: Model, folders: Mapping[str, Folders], training: EncoderTraining, run: TaskRun
    ) -> Task:
        """See `Domain`."""
        return encoder_task(self.waveform, model, folders, training, run)

    def contrast_task(
        self, model: Model, folders: Mapping[str, Folders], training: ContrastTraining, run: TaskRun
    ) -> Task:
        """See `Domain`: there is no such training here."""
        raise NotImplementedError("waveform priors are not contrasted")


def complete(stems_skct: Samples, mix_ct: Samples, groups: Sequence[Sequence[int]]) -> Samples:
    """Share out what the sources lack of the mixture, then sum them in groups: (s, groups, c, t)."""
    stems = project(torch.from_numpy(stems_skct), torch.from_numpy(mix_ct)[None])
    grouped: Samples = torch.stack([stems[:, list(group)].sum(1) for group in groups], 1).float().numpy()
    return grouped

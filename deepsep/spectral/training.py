"""What networks of the spectral domain train on: log band powers, and simulated mixtures.

Shape suffixes: b batch, c plane, k stem, d band, n frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from ..config import CONTRAST_FRAMES, ENCODER_FRAMES, ContrastTraining, EncoderTraining, SpectrumConfig
from ..flows.flow import Flow
from ..inference.domain import Task, TaskRun
from ..inference.draws import Draws
from ..inference.losses import Figures
from ..inference.model import Model
from ..recordings.banks import HELD_OUT, SampleBank
from ..recordings.files import Folders, find_audio, set_members
from ..recordings.simulate import simulate_in_workers
from .calibration import best_gains, loud, spread_scale
from .encoder import BandPosterior, UNet, gain_spread, mixture_features
from .infer import stationary_gains
from .losses import contrast_loss, elbo, mixture_sdr, sleep_loss
from .mixtures import Mixtures, central_shares, concatenate, simulate
from .remix import remix
from .songs import song_batches
from .spectrum import Spectrum, spectrum_at, stereo_power
from .stretches import SetBank

__all__ = ["contrast_task", "encoder_task"]

JUDGED = 4  # held-out mixtures at a time
REMIXED = 4  # songs, at least, that are mixed anew together


@dataclass(frozen=True, slots=True)
class Simulation:
    """Draws simulated mixtures; a worker process gets a copy of it."""

    banks: Sequence[SampleBank]
    spectrum: SpectrumConfig
    frames: int
    batch: int  # mixtures of the same stretches of sound
    sets: Sequence[SetBank] = ()
    set_share: float = 0.0
    central: Sequence[float] | None = None

    def __call__(self, rng: torch.Generator) -> Iterator[Mixtures]:
        return simulate(
            self.banks, Spectrum(self.spectrum), frames=self.frames, batch=self.batch, rng=rng,
            sets=self.sets, set_share=self.set_share, central=self.central,
        )  # fmt: skip


def solo_banks(
    model: Model, folders: Mapping[str, Folders], spectrum: Spectrum, run: TaskRun
) -> tuple[list[SampleBank], list[SampleBank]]:
    """For each source its recordings to train on, and those held out."""
    banks = []
    for source in model.sources:
        cache = run.cache / source
        whole = SampleBank.build(folders[source], spectrum.rate, cache, run.listener)
        banks.append(whole.split(HELD_OUT))
    train, test = zip(*banks, strict=True)
    return list(train), list(test)


def set_banks(
    model: Model, folders: Mapping[str, Folders], spectrum: Spectrum, run: TaskRun
) -> tuple[list[SetBank], list[SetBank]]:
    """The recordings of several sources together, to train on and held out."""
    train: list[SetBank] = []
    test: list[SetBank] = []
    for name, paths in folders.items():
        if name in model.sources:
            continue
        members = tuple(map(model.sources.index, set_members(name)))
        whole = SampleBank.build(paths, spectrum.rate, run.cache / name, run.listener)
        for banks, bank in zip((train, test), whole.split(HELD_OUT), strict=True):
            banks.append(SetBank(members, bank))
    return train, test


def mixtures_a_draw(training: EncoderTraining | ContrastTraining) -> int:
    """How many mixtures are made of the same stretches of sound."""
    return max(1, training.batch // training.draws)


def mixture_batches(
    banks: Sequence[SampleBank],
    model: Model,
    training: EncoderTraining | ContrastTraining,
    frames: int,
    run: TaskRun,
    sets: Sequence[SetBank] = (),
    set_share: float = 0.0,
) -> Iterator[Mixtures]:
    """Endless batches of simulated mixtures; those of a resumed run are others than before."""
    seed = int(torch.randint(2**31, (1,), generator=run.rng)) + run.steps_before
    central = central_shares(model.sources)
    make = Simulation(
        banks, model.domain.spectrum, frames, mixtures_a_draw(training), sets, set_share, central
    )
    drawn = simulate_in_workers(make, seed, workers=training.workers, draws=training.draws)
    return (concatenate(batches) for batches in drawn)


def held_out_mixtures(
    banks: Sequence[SampleBank],
    spectrum: Spectrum,
    frames: int,
    batches: int,
    sets: Sequence[SetBank] = (),
) -> list[Mixtures]:
    """The same mixtures every time, of recordings that are held out; each with one of the sets, if there are any."""
    steady = torch.Generator().manual_seed(1)
    drawn = simulate(
        banks, spectrum, frames=frames, batch=4, rng=steady, extra=2, augment=False, sets=sets, set_share=1.0
    )
    return list(islice(drawn, batches))


def encoder_task(
    model: Model, folders: Mapping[str, Folders], training: EncoderTraining, run: TaskRun
) -> Task:
    """See `Domain.encoder_task`: simulated mixtures, the ELBO of mixtures or songs, or both; or
    simulated mixtures and songs mixed anew."""
    compute = run.compute
    config = model.domain.spectrum
    spectrum, here = (spectrum_at(config, config.rate, str(d)) for d in ("cpu", compute.device))
    frames = training.frames or ENCODER_FRAMES
    if training.mixtures:
        find_audio(training.mixtures)  # a mistyped folder is an error before hours are spent
    banks, unseen = solo_banks(model, folders, spectrum, run)
    sets, unseen_sets = set_banks(model, folders, spectrum, run)
    batches = mixture_batches(banks, model, training, frames, run, sets, training.set_share)
    each = mixtures_a_draw(training)
    half = max(1, each // 2)
    # remix asks for the surer half of each source's estimates: of two, that says little
    least = REMIXED if training.objective == "remix" else 2
    songs = None
    if training.mixtures:
        songs = song_batches(
            training.mixtures, spectrum, run.listener, batch=max(least, half), frames=frames, rng=run.rng
        )
    flows = list(model.priors.values())

    teacher: list[UNet] = []

    def posterior(encoder: UNet, mix_bcdn: Tensor) -> BandPosterior:
        with compute.autocast():
            q = encoder(mixture_features(mix_bcdn, here))
        return BandPosterior(q.log_gain.float(), q.log_std.float())

    def part_of_songs(m: Mixtures, spectra: Tensor, fewest: int) -> Tensor:
        """As large a part of a batch of songs as these mixtures are of a batch, `fewest` songs or more."""
        share = len(m.total_bdn) / (each * training.draws)
        return spectra[: max(fewest, round(share * len(spectra)))].to(compute.device)

    def loss(encoder: UNet, m: Mixtures, draws: Draws) -> tuple[Tensor, Figures]:
        value = m.total_bdn.new_zeros(())
        figures: Figures = {}
        if training.objective != "elbo":
            value, figures = sleep_loss(posterior(encoder, m.mix_bcdn), m, here)
        if songs and training.objective == "remix":
            spectra = part_of_songs(m, next(songs), least)
            with torch.no_grad():
                taught = posterior(teacher[0], stereo_power(spectra, here))
            mixed = remix(taught, spectra, here, draws)
            beside, found = sleep_loss(posterior(encoder, mixed.mix_bcdn), mixed, here)
            value = value + training.remix_weight * beside
            figures["SDR of remixes"] = found["SDR"]
        elif training.objective != "simulated":
            mix = stereo_power(part_of_songs(m, next(songs), 1), here) if songs else m.mix_bcdn[:half]
            bound, more = elbo(encoder, flows, mix, here, draws)
            value = value - (bound if training.objective == "elbo" else training.elbo_weight * bound)
            figures |= more
        return value, figures

    test = concatenate(held_out_mixtures(unseen, spectrum, frames, 12)).to(compute.device)
    sets_test = None
    if sets:
        sets_test = concatenate(held_out_mixtures(unseen, spectrum, frames, 12, unseen_sets)).to(
            compute.device
        )

    def judged(average: UNet, m: Mixtures) -> BandPosterior:
        """The posteriors of many mixtures, a few at a time."""
        found = [average(mixture_features(part, here)) for part in torch.split(m.mix_bcdn, JUDGED)]
        return BandPosterior(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    @torch.no_grad()
    def evaluate(average: UNet) -> Figures:
        _, figures = sleep_loss(judged(average, test), test, here)
        if sets_test:
            sdr_bp = mixture_sdr(judged(average, sets_test).log_gain.exp(), sets_test)
            figures["SDR with sets"] = sdr_bp[sets_test.member_bpk.any(2)].mean()
        return figures

    @torch.no_grad()
    def calibrate(average: UNet) -> list[float]:
        noise = Draws(torch.Generator(compute.device).manual_seed(3))
        gains, stds = [], []
        for m in test.chunk(len(test.total_bdn) // JUDGED):
            q = average(mixture_features(m.mix_bcdn, here))
            power = m.total_bdn / (2 * here.count_d[:, None])
            drawn = [noise.normal(q.log_std.shape, compute.device) for _ in range(16)]
            gains.append(q.log_gain.exp())
            stds.append(gain_spread(q, power, here, drawn))
        truth = best_gains(test.cross_bpdn, test.total_bdn)
        return spread_scale(torch.cat(gains), torch.cat(stds), truth, loud(test.total_bdn))

    return Task(batches, loss, evaluate, calibrate=calibrate, teach=teacher.append)


def contrast_task(
    model: Model, folders: Mapping[str, Folders], training: ContrastTraining, run: TaskRun
) -> Task:
    """See `Domain.contrast_task`: priors share simulated mixtures out among themselves (`contrast_loss`)."""
    compute = run.compute
    config = model.domain.spectrum
    spectrum, here = (spectrum_at(config, config.rate, str(d)) for d in ("cpu", compute.device))
    frames = training.frames or CONTRAST_FRAMES
    banks, unseen = solo_banks(model, folders, spectrum, run)
    batches = mixture_batches(banks, model, training, frames, run)
    start_kd = stationary_gains(list(model.priors.values()), here)[..., 0]

    def loss(flows: Sequence[Flow], m: Mixtures, draws: Draws) -> tuple[Tensor, Figures]:
        return contrast_loss(list(flows), m, start_kd, here, draws, training.likelihood_weight)

    test = [m.to(compute.device) for m in held_out_mixtures(unseen, spectrum, frames, 4)]

    def evaluate(average: Sequence[Flow]) -> Figures:
        draws = Draws(torch.Generator(compute.device).manual_seed(2))
        rows = [loss(average, m, draws)[1] for m in test]
        return {k: torch.stack([row[k] for row in rows]).mean() for k in rows[0] if k.startswith("SDR")}

    solos = here.to_x(concatenate(test).power_bpdn / (2 * here.count_d[:, None]))
    return Task(batches, loss, evaluate, dict(zip(model.sources, solos.unbind(1), strict=True)))

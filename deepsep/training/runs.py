"""The two training runs a user starts: an instrument's prior from its folders, and the amortized posterior.

Both write checkpoints into the priors folder's `training/` and the finished weights beside config.json.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..config import (
    OBJECTIVES,
    EncoderConfig,
    FlowConfig,
    SpectrumConfig,
    TrainConfig,
    WaveformConfig,
    WaveformEncoderConfig,
    WaveformFlowConfig,
    to_dict,
)
from ..errors import DeepsepError
from ..flows.flow import FlowPrior, WaveformPrior
from ..models import folder as folders
from ..recordings.banks import (
    Mixtures,
    Note,
    PowerBank,
    Progress,
    SampleBank,
    contents,
    find_audio,
    recorded,
    simulate,
)
from ..spectral.encoder import Encoder, WaveformEncoder, WaveformPosterior, mixture_features
from ..spectral.losses import (
    bits_per_dim,
    elbo,
    prior_loss,
    sleep_loss,
    waveform_elbo,
    waveform_sleep_loss,
)
from ..spectral.spectrum import Spectrum
from .loop import Loss, Status, check_checkpoint, train
from .simulate import BLOCK, HELD_OUT, fresh_seed, joined, mixture_batches, solo_banks

__all__ = ["train_encoder", "train_prior", "train_waveform_encoder"]

SCORE_EVERY = 3  # steps to one with score matching, on average
SIGMAS = (0.1, 0.3, 1.0)  # noise levels of the held-out figures
WAVEFORM_SIGMAS = (0.01, 0.129, 1.0)


def train_prior(
    source: str,
    data: Sequence[Path],
    out: Path,
    *,
    config: TrainConfig,
    flow: FlowConfig | WaveformFlowConfig,
    spectrum_config: SpectrumConfig,
    waveform: WaveformConfig | None = None,
    score_weight: float = 0.0,
    resume: bool = False,
    overwrite: bool = False,
    licence: str = "unspecified",
    on_files: Progress | None = None,
    on_note: Note | None = None,
    on_progress: Callable[[Status], None] | None = None,
) -> tuple[Status, bool]:
    """Trains one instrument's flow on folders of its solo recordings and writes it into the priors folder `out`.

    With `waveform`, a flow on samples (and `flow` a WaveformFlowConfig); the frames of `config` are samples then.
    Returns the last status and whether the run ended by itself (False after Ctrl-C). Raises DeepsepError for
    folders without audio, a folder of another format, domain or spectrum, one that has this prior already unless it
    is to be resumed or overwritten, or a checkpoint of another configuration; all before anything is read.
    """
    folders.check_name(source)
    check_shape(flow, spectrum_config, waveform, config)
    work = out / "training"
    heard = {"data": contents(data)}
    identity = {
        "kind": "prior",
        "source": source,
        "flow": to_dict(flow),
        "spectrum": to_dict(spectrum_config),
    }
    if waveform:
        identity["waveform"] = to_dict(waveform)
    folders.check_domain(out, spectrum_config, waveform)
    prepare(out, source, identity, heard, resume, overwrite, on_note)
    if on_note and source in encoder_sources(out):
        on_note(
            f"note: the encoder in {out} learnt beside the former prior of {source} and stays as it is; "
            f"to renew it afterwards: deepsep train-encoder --priors {out} --overwrite"
        )
    rng = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)  # layers draw their first weights from the global generator
    prior = WaveformPrior(flow, rng) if isinstance(flow, WaveformFlowConfig) else FlowPrior(flow, rng)
    cache = work / "cache" / source
    with tidied(cache, out):
        if waveform:
            examples = waveform_examples(
                data, spectrum_config, waveform, cache, config, rng, on_files, on_note
            )
        else:
            examples = spectral_examples(data, spectrum_config, cache, config, rng, on_files, on_note)
    sigmas = WAVEFORM_SIGMAS if waveform else SIGMAS
    if not resume:
        start(prior, examples, rng)

    def evaluate(average: nn.Module) -> dict[str, float]:
        assert isinstance(average, (FlowPrior, WaveformPrior))
        return held_out_bits(average, examples.held_out, sigmas)

    def loss(module: nn.Module, x: Tensor, rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, (FlowPrior, WaveformPrior))
        # score matching differentiates twice and costs four times as much: now and then, with as much more weight
        now = int(torch.randint(SCORE_EVERY, (1,), generator=rng)) == 0
        return prior_loss(module, x, rng, SCORE_EVERY * score_weight if now else 0.0)

    def on_save(average: nn.Module, status: Status) -> None:
        assert isinstance(average, (FlowPrior, WaveformPrior))
        info = {
            "licence": licence,
            "data": {"hours": round(examples.hours, 3), "folders": [p.name for p in data]},
            "training": {"steps": status.step, "score_weight": score_weight, **run_of(config)},
            "held_out": {k: round(v, 4) for k, v in status.held_out.items()},
        }
        folders.save_prior(out, source, average, spectrum_config, info, waveform)

    _, status, finished = train(
        prior,
        examples.batches,
        loss,
        config,
        checkpoint=work / f"{source}.safetensors",
        identity=identity,
        rng=rng,
        resume=resume,
        remarks=heard,
        evaluate=evaluate,
        on_save=on_save,
        on_progress=on_progress,
    )
    return status, finished


@torch.no_grad()
def held_out_bits(
    prior: FlowPrior | WaveformPrior, x_bdn: Tensor, sigmas: Sequence[float] = SIGMAS
) -> dict[str, float]:
    """Bits per dimension of unseen x at some noise levels."""
    noise = torch.randn(x_bdn.shape, generator=torch.Generator().manual_seed(2))
    return {
        f"bits/dim at {sigma:g}": float(
            bits_per_dim(prior.log_prob(x_bdn + sigma * noise, sigma), x_bdn.shape)
        )
        for sigma in sigmas
    }


def check_shape(
    flow: FlowConfig | WaveformFlowConfig,
    spectrum: SpectrumConfig,
    waveform: WaveformConfig | None,
    config: TrainConfig,
) -> None:
    """DeepsepError for a flow that does not fit its domain."""
    bands = Spectrum(spectrum).bands
    if isinstance(flow, WaveformFlowConfig) != (waveform is not None):
        raise DeepsepError("a flow on samples goes with a waveform, and one on bands without")
    if isinstance(flow, FlowConfig) and flow.channels != bands:
        raise DeepsepError(
            f"the flow has {flow.channels} channels, the spectrum {bands} bands; make them equal"
        )
    if isinstance(flow, WaveformFlowConfig) and config.frames % flow.multiple:
        raise DeepsepError(
            f"the samples of an example must be a multiple of {flow.multiple}, the flow's squeeze"
        )


class Examples(NamedTuple):
    """Endless batches (b, d, n) to train a prior on, those held out, hours of recordings, the mean spectrum (d,)."""

    batches: Iterator[Tensor]
    held_out: Tensor
    hours: float
    mean_spectrum: Tensor | None = None


def spectral_examples(
    data: Sequence[Path],
    spectrum_config: SpectrumConfig,
    cache: Path,
    config: TrainConfig,
    rng: torch.Generator,
    on_files: Progress | None,
    on_note: Note | None,
) -> Examples:
    """Log band powers of an instrument's recordings."""
    spectrum = Spectrum(spectrum_config)
    bank = PowerBank.build(data, spectrum, cache, on_progress=on_files, on_note=on_note)
    spans, held_out = bank.split(HELD_OUT)
    batches = bank.batches(spans, spectrum, batch=config.batch, frames=config.frames, rng=rng)
    steady = torch.Generator().manual_seed(1)
    unseen = bank.batches(held_out, spectrum, batch=16, frames=config.frames, rng=steady)
    test = torch.cat([next(unseen) for _ in range(2)])
    return Examples(batches, test, bank.heard * spectrum.hop / spectrum.rate / 3600)


def waveform_examples(
    data: Sequence[Path],
    spectrum_config: SpectrumConfig,
    waveform: WaveformConfig,
    cache: Path,
    config: TrainConfig,
    rng: torch.Generator,
    on_files: Progress | None,
    on_note: Note | None,
) -> Examples:
    """Samples of an instrument's recordings, at the priors' rate and level."""
    as_is = waveform.level == "absolute"
    whole = SampleBank.build(data, waveform.rate, cache, as_is=as_is, on_progress=on_files, on_note=on_note)
    bank, unseen = whole.split(HELD_OUT, BLOCK * waveform.rate)

    def batches() -> Iterator[Tensor]:
        while True:
            yield bank.stretches(config.batch, config.frames, rng, vary=not as_is)[:, None]

    steady = torch.Generator().manual_seed(1)
    spectrum = Spectrum(spectrum_config, waveform.rate)
    long = bank.stretches(64, 4 * spectrum.n_fft, steady, vary=not as_is)
    power = spectrum.band_power(spectrum.stft(long).abs().square()).mean((0, 2))
    test = unseen.stretches(64, config.frames, steady, vary=not as_is)[:, None]
    hours = float(whole.pieces[:, 1].sum()) / waveform.rate / 3600
    return Examples(batches(), test, hours, spectrum.to_x(power[:, None])[:, 0])


def start(prior: FlowPrior | WaveformPrior, examples: Examples, rng: torch.Generator) -> None:
    """What training takes from data before its first step: the whitening, and every ActNorm."""
    first = next(examples.batches)
    least = 20000 if isinstance(prior, FlowPrior) else 200000
    more = max(1, least // (len(first) * first.shape[2])) - 1
    first = torch.cat([first, *(next(examples.batches) for _ in range(more))])
    if isinstance(prior, FlowPrior):
        frames, sigma = first, 0.3
    else:
        frames, sigma = cast(Tensor, prior.squeezes[0](first)[0]), 0.1
        assert examples.mean_spectrum is not None
        prior.mean_spectrum.copy_(examples.mean_spectrum)
    prior.whitening.fit(frames.transpose(1, 2).flatten(0, 1))
    prior.init_from(first[:32] + sigma * torch.randn(first[:32].shape, generator=rng), sigma)


def prepare(
    out: Path,
    name: str,
    identity: dict[str, Any],
    heard: dict[str, str],
    resume: bool,
    overwrite: bool,
    on_note: Note | None,
) -> None:
    """Checks, before hours are spent, that a run can write to `out` and what it does to what is there."""
    checkpoint = out / "training" / f"{name}.safetensors"
    if resume:
        before = check_checkpoint(checkpoint, identity).get("data", heard["data"])
        if before != heard["data"] and on_note:
            on_note(
                "the recordings are others than before: what is held out may have been trained on earlier"
            )
    elif not overwrite and (checkpoint.exists() or (out / f"{name}.safetensors").exists()):
        raise DeepsepError(
            f"{out}: {name} has been trained there; --resume goes on with it, --overwrite starts afresh"
        )
    try:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        for folder in (out, checkpoint.parent):
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise DeepsepError(
            f"{out}: cannot be written to ({error.strerror}); choose another folder"
        ) from error


@contextmanager
def tidied(folder: Path, top: Path) -> Iterator[None]:
    """If what is within fails, empty folders from `folder` up to `top` do not stay."""
    try:
        yield
    except BaseException:
        for path in (folder, *folder.parents):
            with suppress(OSError):
                path.rmdir()
            if path == top:
                break
        raise


def run_of(config: TrainConfig) -> dict[str, Any]:
    """The settings of a run that a model card states."""
    return {k: v for k, v in asdict(config).items() if k in ("batch", "frames", "lr", "ema", "seed")}


def encoder_sources(folder: Path) -> list[str]:
    """The sources that a priors folder's encoder separates; none where it has no encoder."""
    if not (folder / "config.json").exists():
        return []
    return list(folders.read_config(folder).get("encoder", {}).get("sources", []))


def train_encoder(
    priors: Path,
    data: Mapping[str, Sequence[Path]],
    *,
    config: TrainConfig,
    network: EncoderConfig,
    objective: str = "both",
    elbo_weight: float = 0.1,
    unlabelled: Path | None = None,
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    draws: int = 2,
    on_files: Progress | None = None,
    on_note: Note | None = None,
    on_progress: Callable[[Status], None] | None = None,
) -> tuple[Status, bool]:
    """Trains q(x_1..x_K | m) for the sources of a priors folder and writes it there.

    objective: "simulated" (mixtures of independently drawn sources, sources known), "elbo" (thesis Eq. 13 under
    the fixed priors, sources never looked at) or "both". `unlabelled` songs, when given, take the simulated
    mixtures' place in the ELBO. `draws` stretches of sound make up each batch.
    """
    model = checked(priors, data, objective)
    if model.waveform:
        raise DeepsepError(f"{priors}: its priors are of samples; they take the encoder of samples")
    spectrum = Spectrum(model.spectrum)
    network = replace(network, bands=spectrum.bands)
    if config.frames % 2 ** len(network.widths):
        raise DeepsepError(f"the frames of an example must be a multiple of {2 ** len(network.widths)}")
    work = priors / "training"
    run = begun(priors, model, data, network, config, objective, resume, overwrite, on_note)
    rng = run.rng
    encoder = Encoder(network, len(model.sources)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if unlabelled:
        find_audio(unlabelled)  # so that a mistyped folder is told at once
    banks, unseen = solo_banks(model.sources, data, spectrum.rate, work / "cache", on_files, on_note)
    seed = fresh_seed(rng, work / "encoder.safetensors" if resume else None)
    each = max(1, config.batch // draws)
    songs = (
        recorded(
            unlabelled, spectrum, batch=max(2, each // 2), frames=config.frames, rng=rng,
            on_progress=on_files, on_note=on_note,
        )
        if unlabelled and objective != "simulated"
        else None
    )  # fmt: skip
    batches = mixture_batches(banks, model.spectrum, each, config.frames, seed, workers, draws)
    flows = [prior for prior in model.priors.values() if isinstance(prior, FlowPrior)]

    def loss(module: nn.Module, m: Mixtures, rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, Encoder)
        value = torch.zeros(())
        figures: dict[str, float] = {}
        if objective != "elbo":
            with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
                raw = module(mixture_features(m.mix_bcdn, spectrum))
            value, figures = sleep_loss(type(raw)(*(v.float() for v in raw)), m, spectrum)
        if objective != "simulated":
            mix = next(songs) if songs else m.mix_bcdn[: max(1, each // 2)]
            bound, more = elbo(module, flows, mix, spectrum, rng)
            value = value - (bound if objective == "elbo" else elbo_weight * bound)
            figures |= more
        return value, figures

    steady = torch.Generator().manual_seed(1)
    fixed = simulate(unseen, spectrum, frames=config.frames, batch=4, rng=steady, augment=False)
    test = joined(list(islice(fixed, 12)))

    @torch.no_grad()
    def evaluate(average: nn.Module) -> dict[str, float]:
        assert isinstance(average, Encoder)
        _, figures = sleep_loss(average(mixture_features(test.mix_bcdn, spectrum)), test, spectrum)
        return figures

    return run.train(encoder, batches, loss, evaluate, on_progress)


def train_waveform_encoder(
    priors: Path,
    data: Mapping[str, Sequence[Path]],
    *,
    config: TrainConfig,
    network: WaveformEncoderConfig,
    objective: str = "both",
    elbo_weight: float = 0.1,
    unlabelled: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_files: Progress | None = None,
    on_note: Note | None = None,
    on_progress: Callable[[Status], None] | None = None,
) -> tuple[Status, bool]:
    """`train_encoder` for priors of samples (thesis Algorithm 3); the frames of `config` are samples here."""
    model = checked(priors, data, objective)
    waveform = model.waveform
    assert waveform is not None
    flows = [prior for prior in model.priors.values() if isinstance(prior, WaveformPrior)]
    multiple = math.lcm(network.squeeze, *(prior.config.multiple for prior in flows))
    if config.frames % multiple:
        raise DeepsepError(f"the samples of an example must be a multiple of {multiple}")
    work = priors / "training"
    run = begun(priors, model, data, network, config, objective, resume, overwrite, on_note)
    rng = run.rng
    encoder = WaveformEncoder(network, len(model.sources))
    as_is = waveform.level == "absolute"

    def bank_of(folder: Sequence[Path], cache: Path) -> SampleBank:
        return SampleBank.build(
            folder, waveform.rate, cache, as_is=as_is, on_progress=on_files, on_note=on_note
        )

    split = [
        bank_of(data[s], work / "cache" / s).split(HELD_OUT, BLOCK * waveform.rate) for s in model.sources
    ]
    songs = None
    if unlabelled and objective != "simulated":
        find_audio(unlabelled)  # so that a mistyped folder is told at once
        songs = bank_of([unlabelled], work / "cache" / "songs")

    def levelled(stems_bkt: Tensor) -> Tensor:
        mix = stems_bkt.sum(1)
        gain = 1.0 if as_is else mix.square().mean(1).clamp_min(1e-6).rsqrt()[:, None, None]
        return (stems_bkt * gain)[:, :, None]

    def drawn(banks: Sequence[SampleBank], count: int, rng: torch.Generator) -> Tensor:
        """Stems (b, k, 1, t) of simulated mixtures."""
        stems = [bank.stretches(count, config.frames, rng, vary=not as_is) for bank in banks]
        return levelled(torch.stack(stems, 1))

    def batches() -> Iterator[Tensor]:
        while True:
            yield drawn([bank for bank, _ in split], config.batch, rng)

    def loss(module: nn.Module, stems: Tensor, rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, WaveformEncoder)
        posterior = module(stems.sum(1))
        value = torch.zeros(())
        figures: dict[str, float] = {}
        if objective != "elbo":
            value, figures = waveform_sleep_loss(posterior, stems)
        if objective != "simulated":
            half = max(1, config.batch // 2)  # the priors cost more than the encoder
            if songs:
                mix = levelled(songs.stretches(half, config.frames, rng, vary=False)[:, None])[:, 0]
                judged = module(mix)
            else:
                mix, judged = stems[:half].sum(1), WaveformPosterior(*(v[:half] for v in posterior))
            bound, more = waveform_elbo(judged, flows, mix, rng)
            value = value - (bound if objective == "elbo" else elbo_weight * bound)
            figures |= more
        return value, figures

    test = drawn([bank for _, bank in split], 64, torch.Generator().manual_seed(1))

    @torch.no_grad()
    def evaluate(average: nn.Module) -> dict[str, float]:
        assert isinstance(average, WaveformEncoder)
        _, figures = waveform_sleep_loss(average(test.sum(1)), test)
        return figures

    return run.train(encoder, batches(), loss, evaluate, on_progress)


@dataclass(frozen=True, slots=True)
class EncoderRun:
    """What the training of an encoder is about, in either domain."""

    priors: Path
    sources: list[str]
    config: TrainConfig
    objective: str
    identity: dict[str, Any]
    heard: dict[str, str]
    rng: torch.Generator
    resume: bool

    def train(
        self,
        encoder: Encoder | WaveformEncoder,
        batches: Iterator[Any],
        loss: Loss,
        evaluate: Callable[[nn.Module], dict[str, float]],
        on_progress: Callable[[Status], None] | None,
    ) -> tuple[Status, bool]:
        """Trains it and writes it into the priors folder; in what is shown, stems have their sources' names."""
        names = {f"SDR {k}": f"SDR {s}" for k, s in enumerate(self.sources)}

        def named(figures: dict[str, float]) -> dict[str, float]:
            return {names.get(k, k): v for k, v in figures.items()}

        def named_loss(
            module: nn.Module, batch: Any, rng: torch.Generator
        ) -> tuple[Tensor, dict[str, float]]:
            value, figures = loss(module, batch, rng)
            return value, named(figures)

        def on_save(average: nn.Module, status: Status) -> None:
            assert isinstance(average, (Encoder, WaveformEncoder))
            info = {
                "training": {"objective": self.objective, "steps": status.step, **run_of(self.config)},
                "simulated": {k: round(v, 3) for k, v in status.held_out.items()},
            }
            folders.save_encoder(self.priors, average, self.sources, info)

        _, status, finished = train(
            encoder,
            batches,
            named_loss,
            self.config,
            checkpoint=self.priors / "training" / "encoder.safetensors",
            identity=self.identity,
            rng=self.rng,
            resume=self.resume,
            remarks=self.heard,
            evaluate=lambda average: named(evaluate(average)),
            on_save=on_save,
            on_progress=on_progress,
        )
        return status, finished


def begun(
    priors: Path,
    model: folders.Model,
    data: Mapping[str, Sequence[Path]],
    network: EncoderConfig | WaveformEncoderConfig,
    config: TrainConfig,
    objective: str,
    resume: bool,
    overwrite: bool,
    on_note: Note | None,
) -> EncoderRun:
    """A run that has been checked (`prepare`), with its generator; layers draw from the global one, seeded too."""
    heard = {"data": " ".join(contents(data[s]) for s in model.sources)}
    identity = {"kind": "encoder", "sources": model.sources, "network": to_dict(network)}
    prepare(priors, "encoder", identity, heard, resume, overwrite, on_note)
    rng = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)
    return EncoderRun(priors, model.sources, config, objective, identity, heard, rng, resume)


def checked(priors: Path, data: Mapping[str, Sequence[Path]], objective: str = "both") -> folders.Model:
    """The priors of a folder. DeepsepError unless there are recordings for each, and an encoder's objective."""
    if objective not in OBJECTIVES:
        raise DeepsepError(f"unknown objective {objective!r}; choose one of {', '.join(OBJECTIVES)}")
    model = folders.load(priors, encoder=False)
    if unknown := [s for s in data if s not in model.sources]:
        raise DeepsepError(f"unknown source {unknown[0]!r}; {priors} has {', '.join(model.sources)}")
    if missing := [s for s in model.sources if s not in data]:
        raise DeepsepError(
            f"no recordings of {', '.join(missing)}; give a folder for each source of {priors}"
        )
    return model

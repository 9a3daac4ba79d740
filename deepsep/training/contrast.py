"""The training run over several priors at once: each learns to leave a mixture's other sources to the others.

No song is heard, and no source together with the others it was played with: mixtures are made of solo recordings that
have nothing to do with one another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import TrainConfig, to_dict
from ..errors import DeepsepError
from ..flows.flow import FlowPrior
from ..models import folder as folders
from ..recordings.banks import Mixtures, Note, Progress, contents, simulate
from ..spectral.losses import contrast_loss
from ..spectral.spectrum import Spectrum
from .loop import Status, train
from .runs import checked, held_out_bits, prepare, run_of, tidied
from .simulate import fresh_seed, joined, mixture_batches, solo_banks

__all__ = ["contrast_priors"]

DRAWS = 2  # stretches of sound to a batch


def contrast_priors(
    priors: Path,
    data: Mapping[str, Sequence[Path]],
    out: Path,
    *,
    config: TrainConfig,
    likelihood_weight: float = 0.5,
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    on_files: Progress | None = None,
    on_note: Note | None = None,
    on_progress: Callable[[Status], None] | None = None,
) -> tuple[Status, bool]:
    """Trains the priors of a folder against one another (`contrast_loss`) and writes them into the folder `out`.

    `data` has folders of solo recordings for each source. Returns the last status and whether the run ended by
    itself. Raises DeepsepError as `recipes.train_encoder` does, for priors of samples, and for a single prior.
    """
    if out.resolve() == priors.resolve():
        raise DeepsepError(f"{out}: holds the priors to start from; choose another output folder")
    model = checked(priors, data)
    if model.waveform:
        raise DeepsepError(
            f"{priors}: its priors are of samples; only those of band powers can be contrasted"
        )
    if len(model.sources) < 2:
        raise DeepsepError(f"{priors}: has one prior; contrast takes two or more")
    known = folders.read_config(priors)["priors"]
    spectrum = Spectrum(model.spectrum)
    flows = nn.ModuleList(model.priors.values()).requires_grad_(True)
    work = out / "training"
    heard = {"data": " ".join(contents(data[s]) for s in model.sources)}
    shapes = {s: to_dict(prior.config) for s, prior in model.priors.items()}
    identity = {"kind": "contrast", "sources": model.sources, "flows": shapes}
    if not (resume or overwrite) and (out / "config.json").exists():
        raise DeepsepError(f"{out}: holds priors; --resume goes on with them, --overwrite starts afresh")
    prepare(out, "contrast", identity, heard, resume, overwrite, on_note)
    with tidied(work / "cache", out):
        banks, unseen = solo_banks(model.sources, data, spectrum.rate, work / "cache", on_files, on_note)
    rng = torch.Generator().manual_seed(config.seed)
    seed = fresh_seed(rng, work / "contrast.safetensors" if resume else None)
    each = max(1, config.batch // DRAWS)
    batches = mixture_batches(banks, model.spectrum, each, config.frames, seed, workers, DRAWS)
    start_kd = folders.stationary_gains(model, spectrum)[..., 0]
    names = {f"SDR {k}": f"SDR {s}" for k, s in enumerate(model.sources)}

    def loss(module: nn.Module, m: Mixtures, rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, nn.ModuleList)
        ours = [flow for flow in module if isinstance(flow, FlowPrior)]
        value, figures = contrast_loss(ours, m, start_kd, spectrum, rng, likelihood_weight)
        return value, {names.get(k, k): v for k, v in figures.items()}

    steady = torch.Generator().manual_seed(1)
    fixed = simulate(unseen, spectrum, frames=config.frames, batch=4, rng=steady, augment=False)
    test = list(islice(fixed, 4))
    solos = spectrum.to_x(joined(test).power_bkdn / (2 * spectrum.count_d[:, None])).unbind(1)
    before = {s: held_out_bits(p, x) for (s, p), x in zip(model.priors.items(), solos, strict=True)}

    def evaluate(average: nn.Module) -> dict[str, float]:
        rng = torch.Generator().manual_seed(2)
        rows = [loss(average, m, rng)[1] for m in test]
        return {k: sum(row[k] for row in rows) / len(rows) for k in rows[0] if k.startswith("SDR")}

    def on_save(average: nn.Module, status: Status) -> None:
        assert isinstance(average, nn.ModuleList)
        held_out = rounded(status.held_out)
        run = {"steps": status.step, "likelihood_weight": likelihood_weight, **run_of(config)}
        for source, flow, x in zip(model.sources, average, solos, strict=True):
            assert isinstance(flow, FlowPrior)
            told = {k: v for k, v in known[source].items() if k != "flow"}
            told["contrast"] = {**run, "held_out": held_out, "before": rounded(before[source])}
            told["held_out"] = rounded(held_out_bits(flow, x))
            folders.save_prior(out, source, flow, model.spectrum, told)

    _, status, finished = train(
        flows,
        batches,
        loss,
        config,
        checkpoint=work / "contrast.safetensors",
        identity=identity,
        rng=rng,
        resume=resume,
        remarks=heard,
        evaluate=evaluate,
        on_save=on_save,
        on_progress=on_progress,
    )
    return status, finished


def rounded(figures: Mapping[str, float]) -> dict[str, float]:
    """As a config.json states them."""
    return {k: round(v, 4) for k, v in figures.items()}

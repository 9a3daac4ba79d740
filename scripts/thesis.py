"""The thesis' toy experiment, from nothing to the tables and pictures of thesis.md: python scripts/thesis.py FOLDER

Everything is kept in FOLDER, and a second run goes on where the first stopped; tables that are there are printed
again. Needs matplotlib. With --music it trains waveform priors on recordings instead, and prints what they say.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from exact import ExactPrior

from deepsep import load_priors
from deepsep.config import WaveformSgldConfig
from deepsep.evaluation import baselines, songs
from deepsep.evaluation.metrics import si_sdr
from deepsep.flows.flow import standard_normal
from deepsep.inference.model import Model
from deepsep.inference.settings import Settings
from deepsep.models import folder as model
from deepsep.progress import Listener
from deepsep.recordings import toy
from deepsep.recordings.banks import SampleBank
from deepsep.spectral.infer import stationary_gains
from deepsep.spectral.spectrum import Spectrum
from deepsep.waveform.domain import WaveformDomain
from deepsep.waveform.infer import likeliest, separate_samples

DOCS = Path(__file__).resolve().parents[1] / "docs"
SIGMAS = (0.01, 0.027, 0.077, 0.129, 0.359)  # the thesis' levels
THESIS_ACCURACY = {0.01: "0.973 (clean)", 0.129: "0.286", 0.359: "0.119"}  # of 4 classes
WINDOW = 512
FIRST = 3000  # where in a song the window lies
NOTES = 128  # of each wave, for the densities
PHASES = 64  # of the exact densities' grid, where they separate
LEVELS = (0.05, 0.129, 0.359, 1.0, 2.0, 4.0)  # of the denoising table


def deepsep(*words: object) -> None:
    """The program, on one core."""
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "deepsep", *map(str, words)], check=False, env=one)
    if done.returncode:
        raise SystemExit(done.returncode)


# --- training ------------------------------------------------------------------------------------------


def train(folder: Path, steps: int, encoder_steps: int) -> None:
    """Toy data, four priors, the encoders by simulated mixtures and by the thesis' ELBO alone; two at a time."""
    data, priors, by_elbo = folder / "toy", folder / "priors", folder / "elbo"
    if not data.exists():
        deepsep("toy", data)

    def prior(wave: str) -> None:
        deepsep(
            "train-prior", data / "train" / wave, "--source", wave, "-o", folder / wave, "--domain", "waveform",
            "--level", "absolute", "--steps", steps, "--batch", 32, "--lr", 0.002, "--score-weight", 1,
            "--licence", "CC0-1.0", *resumed(folder / wave, wave),
        )  # fmt: skip

    def encoder(objective: str, place: Path, steps: int) -> None:
        deepsep(
            "train-encoder", data / "train", "--priors", place, "--objective", objective,
            "--steps", steps, "--batch", 32, *resumed(place, "encoder"),
        )  # fmt: skip

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(prior, [wave for wave in toy.WAVES if steps_of(folder / wave, wave) < steps]))
        for place in (priors, by_elbo):
            if not place.exists():
                for wave in toy.WAVES:
                    copy_priors(folder / wave, place)
        # the ELBO goes through the priors, which makes a step of it twice as dear
        runs = [("simulated", priors, encoder_steps), ("elbo", by_elbo, encoder_steps // 2)]
        left = [run for run in runs if steps_of(run[1], "encoder") < run[2]]
        list(pool.map(lambda run: encoder(*run), left))


def resumed(place: Path, name: str) -> list[str]:
    """The option to go on with a training that was begun."""
    return ["--resume"] if (place / "training" / f"{name}.safetensors").exists() else []


def steps_of(priors: Path, name: str) -> int:
    """How long a prior, or the encoder, of a folder has been trained."""
    if not (priors / f"{name}.safetensors").exists():
        return 0
    config = model.read_config(priors)
    table = config.get("encoder", {}) if name == "encoder" else config["priors"].get(name, {})
    return int(table.get("training", {}).get("steps", 0))


def copy_priors(priors: Path, to: Path) -> None:
    """The priors of a folder, without its encoder."""
    loaded, known = model.load(priors, encoder=False), model.read_config(priors)["priors"]
    for name, prior in loaded.priors.items():
        info = {k: v for k, v in known[name].items() if k != "flow"}
        model.save_prior(to, name, prior, loaded.domain, info)


# --- densities -----------------------------------------------------------------------------------------


@torch.no_grad()
def densities(priors: Model) -> dict[str, Any]:
    """log p(x) / dim of every prior (row) on every wave (column) at each level, with and without log-det."""
    rng = torch.Generator().manual_seed(11)
    x = {wave: toy.notes(wave, NOTES, WINDOW, rng)[:, None] for wave in toy.WAVES}
    exact = {wave: ExactPrior(wave, WINDOW, phases=256) for wave in toy.WAVES}
    found = {}
    for sigma in SIGMAS:
        full, base, truth = [], [], []
        noisy = {wave: v + sigma * torch.randn(v.shape, generator=rng) for wave, v in x.items()}
        for wave in toy.WAVES:
            own = [priors.priors[wave](y, sigma) for y in noisy.values()]
            base.append(torch.stack([standard_normal(z) / WINDOW for z, _ in own]))
            full.append(torch.stack([(standard_normal(z) + ladj) / WINDOW for z, ladj in own]))
            truth.append(torch.stack([exact[wave].log_prob(y, sigma) / WINDOW for y in noisy.values()]))
        found[str(sigma)] = {
            kind: {
                "mean": table.mean(2).tolist(),
                "median": table.median(2)[0].tolist(),
                "bayes": bayes(table),
            }
            for kind, rows in (("full", full), ("base", base), ("exact", truth))
            for table in [torch.stack(rows)]  # (prior, wave, note)
        }
    return found


def bayes(table: torch.Tensor) -> float:
    """How often the prior of a note's own wave is the likeliest."""
    right = table.argmax(0) == torch.arange(len(table))[:, None]
    return float(right.float().mean())


def denoising(priors: Model) -> dict[str, Any]:
    """How far Tweedie's x + sigma^2 score brings a noisy note back, in dB of SDR; and the exact density's."""
    rng = torch.Generator().manual_seed(12)
    found: dict[str, Any] = {}
    for wave in toy.WAVES:
        exact = ExactPrior(wave, WINDOW, phases=128)
        x = toy.notes(wave, 32, WINDOW, rng)[:, None]
        for sigma in LEVELS:
            noisy = x + sigma * torch.randn(x.shape, generator=rng)
            for kind, prior in (("flow", priors.priors[wave]), ("exact", exact)):
                y = noisy.clone().requires_grad_()
                (score,) = torch.autograd.grad(prior.log_prob(y, sigma).sum(), y)
                error = (noisy + sigma**2 * score - x).square().sum()
                found.setdefault(kind, {}).setdefault(str(sigma), []).append(
                    10 * math.log10(float(x.square().sum() / error))
                )
            clean = 10 * math.log10(float(x.square().mean())) - 20 * math.log10(sigma)
            found.setdefault("noisy", {}).setdefault(str(sigma), []).append(clean)
    return found


@torch.no_grad()
def inversion(priors: Model) -> float:
    """The largest |x - f^-1(f(x))| over notes at every level."""
    rng = torch.Generator().manual_seed(13)
    worst = 0.0
    for wave in toy.WAVES:
        x = toy.notes(wave, 16, WINDOW, rng)[:, None]
        for sigma in SIGMAS:
            noisy = x + sigma * torch.randn(x.shape, generator=rng)
            z, _ = priors.priors[wave](noisy, sigma)
            worst = max(worst, float((priors.priors[wave].inverse(z, sigma)[0] - noisy).abs().max()))
    return worst


# --- separation ----------------------------------------------------------------------------------------


def clips(folder: Path, count: int) -> list[songs.Clip]:
    """The first songs of the toy."""
    found = songs.find_songs(folder / "toy" / "songs")[:count]
    return [songs.read(song, toy.WAVES) for song in found]


def windows(found: list[songs.Clip]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources (b, k, t) and mixtures (b, t)."""
    cut = slice(FIRST, FIRST + WINDOW)
    stems = torch.stack(
        [torch.stack([torch.tensor(c.references[w][0, cut]) for w in toy.WAVES]) for c in found]
    )
    return stems, stems.sum(1)


def improvement(stems: torch.Tensor, estimates: torch.Tensor) -> list[list[float]]:
    """SI-SDR of the estimates less that of the mixture, dB, by song and wave."""
    return [
        [si_sdr(s[None], e[None]) - si_sdr(s[None], m[None]) for s, e in zip(own, found, strict=True)]
        for own, found, m in zip(stems.numpy(), estimates.numpy(), stems.sum(1).numpy(), strict=True)
    ]


def masks(found: list[songs.Clip], priors: Model, oracle: bool) -> torch.Tensor:
    """Estimates by the stationary Wiener filter, or by the oracle's ratio mask, on whole songs; then cut."""
    estimates = []
    for clip in found:
        analysis = baselines.Analysis(clip, priors)
        gains = (
            baselines.oracle_gains(analysis, True)
            if oracle
            else stationary_gains(list(priors.priors.values()), analysis.spectrum)
        )
        estimates.append(torch.tensor(analysis.apply_gains(gains))[:, 0, FIRST : FIRST + WINDOW])
    return torch.stack(estimates)


def exact_model(priors: Model) -> Model:
    """The same with the toy's own densities for priors."""
    own = {wave: ExactPrior(wave, WINDOW, phases=PHASES) for wave in toy.WAVES}
    return Model(priors.domain, own)  # type: ignore[arg-type]


def langevin(mixes: torch.Tensor, priors: Model, **changed: Any) -> torch.Tensor:
    """Stems (b, k, t) of one run."""
    settings = Settings(method="sgld", sgld=WaveformSgldConfig(**changed))
    return separate_samples(mixes, priors, settings)[:, 0]


def chains(mixes: torch.Tensor, of: Model, stems: torch.Tensor, init: str = "mixture") -> dict[str, Any]:
    """Improvements of one chain, of the likeliest of all, and of their mean."""
    config = WaveformSgldConfig.default(from_encoder=init == "encoder")
    count = config.chains
    settings = Settings(method="sgld", init=init, sgld=config, draws=count)  # type: ignore[arg-type]
    found = separate_samples(mixes, of, settings)  # (b, s, k, t)
    with torch.no_grad():
        best = likeliest(found, of, config.sigma_min)
    return {
        "one chain": improvement(stems, found[:, 0]),
        f"the likeliest of {count}": improvement(stems, best),
        f"the mean of {count}": improvement(stems, found.mean(1)),
    }


def methods(folder: Path, priors: Model, count: int) -> dict[str, Any]:
    """Name -> a function that gives improvements, by variant where there are several."""
    found = clips(folder, count)
    stems, mixes = windows(found)
    exact = exact_model(priors)
    by_elbo = model.load(folder / "elbo") if (folder / "elbo" / "encoder.safetensors").exists() else None

    def encoder(of: Model | None) -> torch.Tensor:
        assert of is not None
        return separate_samples(mixes, of, Settings(method="encoder"))[:, 0]

    table = {
        "the mixture": lambda: {"": improvement(stems, mixes[:, None].expand_as(stems))},
        "stationary Wiener": lambda: {"": improvement(stems, masks(found, priors, False))},
        "Langevin, flows": lambda: chains(mixes, priors, stems),
        "encoder, simulated mixtures": lambda: {"": improvement(stems, encoder(priors))},
        "Langevin, flows, from that encoder and sigma 0.5": lambda: chains(mixes, priors, stems, "encoder"),
        "encoder, ELBO alone": lambda: {"": improvement(stems, encoder(by_elbo))},
        "oracle mask": lambda: {"": improvement(stems, masks(found, priors, True))},
        "oracle posterior: Langevin, exact densities": lambda: chains(mixes, exact, stems),
    }
    if by_elbo is None:
        del table["encoder, ELBO alone"]
    if priors.encoder is None:
        del table["encoder, simulated mixtures"], table["Langevin, flows, from that encoder and sigma 0.5"]
    return table


VARIANTS: dict[str, dict[str, Any]] = {
    "as above, 1 chain": {},
    "from sigma 1": {"sigma_max": 1.0},
    "down to sigma 0.2": {"sigma_min": 0.2},
    "1 step a level, not 4": {"steps": 1},
    "8 steps a level": {"steps": 8},
    "constraint of half the width (gamma 0.5)": {"gamma": 0.5},
    "of twice the width (gamma 2)": {"gamma": 2.0},
    "exactly, at the denoised (gamma 0)": {"gamma": 0.0},
    "constraint on the noisy x (BASIS)": {"denoise": False},
    "exactly, at the noisy x": {"gamma": 0.0, "denoise": False},
}


# --- music ---------------------------------------------------------------------------------------------

MUSIC_SIGMAS = (0.03, 0.1, 0.3, 1.0)
CUTS = 64
FRAMES = 43  # a second


def music(folder: Path, recordings: Path, excerpts: Path | None, minutes: float) -> None:
    """Waveform priors on recordings/drums and on all other subfolders together; what they say of each."""
    priors = folder / "music"
    others = sorted(p for p in recordings.iterdir() if p.is_dir() and p.name != "drums")
    lengths = {"drums": minutes, "rest": minutes / 2}
    for name, data in (("drums", [recordings / "drums"]), ("rest", others)):
        if not (folder / "tables" / "music.json").exists():
            deepsep(
                "train-prior", *data, "--source", name, "-o", priors, "--domain", "waveform",
                "--minutes", lengths[name], "--window", 2048, "--layers", 7, "--batch", 8,
                "--sigma-min", 0.02, "--sigma-max", 3, "--lr", 0.002, "--score-weight", 1,
                *resumed(priors, name),
            )  # fmt: skip
    loaded = model.load(priors)
    for name in loaded.sources:
        print(f"{name}: {steps_of(priors, name)} steps, of at most {lengths[name]:g} minutes.")
    cache = priors / "training" / "cache"
    bundled = load_priors("bundled")
    assert isinstance(loaded.domain, WaveformDomain)
    print(f"\nlog p(x), median over {CUTS} cuts of {loaded.domain.waveform.window} samples, nats a sample\n")
    found = load_or_make(
        folder / "tables" / "music.json", lambda: score_recordings(loaded, recordings, cache)
    )
    print_recordings(found, loaded.sources)
    print(
        f"\nThe bundled priors, on {FRAMES} frames of {bundled.domain.spectrum.n_fft} samples, nats a band and frame\n"
    )
    found = load_or_make(
        folder / "tables" / "music-bands.json", lambda: score_recordings(bundled, recordings, cache)
    )
    print_recordings(found, bundled.sources)
    if excerpts:
        print(
            "\nDrums against the rest, SI-SDR, the same excerpts: waveform priors, then spectral ones\n",
            flush=True,
        )
        common = (excerpts, "--metric", "si_sdr", "-q")
        deepsep(
            "evaluate", *common, "--priors", priors, "--methods", "mixture,stationary,sgld", "--chains", 1
        )
        deepsep("evaluate", *common, "--methods", "mixture,stationary,sgld,encoder")


@torch.no_grad()
def score_recordings(priors: Model, recordings: Path, cache: Path) -> dict[str, Any]:
    """sigma -> kind of recording -> what each prior says of cuts of it, and how often the right one says most."""
    rng = torch.Generator().manual_seed(14)
    domain, spectrum = priors.domain, Spectrum(priors.domain.spectrum)
    waveform = domain.waveform if isinstance(domain, WaveformDomain) else None
    rate = waveform.rate if waveform else spectrum.rate
    length = waveform.window if waveform else FRAMES * spectrum.hop
    sigmas = MUSIC_SIGMAS if waveform else MUSIC_SIGMAS[1:]
    found: dict[str, Any] = {str(sigma): {} for sigma in sigmas}
    for kind in sorted(p.name for p in recordings.iterdir() if p.is_dir()):
        own = priors.sources.index(kind if kind in priors.sources else "rest")
        bank = SampleBank.build([recordings / kind], rate, cache / f"{kind}-{rate}", Listener())
        x = bank.stretches(CUTS, length, rng, vary=True)[:, None]
        if not waveform:
            x = spectrum.to_x(spectrum.band_power(spectrum.stft(x[:, 0]).abs().square()))
        for sigma in sigmas:
            noisy = x + sigma * torch.randn(x.shape, generator=rng)
            said = torch.stack([p.log_prob(noisy, sigma) for p in priors.priors.values()]) / x[0].numel()
            wins = (said.argmax(0) == own).float().mean()
            found[str(sigma)][kind] = [*said.median(1)[0].tolist(), float(wins)]
    return found


def print_recordings(found: dict[str, Any], names: list[str]) -> None:
    """A row for each prior, and one for how often the right prior wins."""
    print(head("sigma", "prior", *next(iter(found.values()))))
    for sigma, table in found.items():
        for i, name in enumerate([*names, "right one wins"]):
            print(row(sigma if i == 0 else "", name, *(number(table[kind][i]) for kind in table)))


# --- tables and pictures -------------------------------------------------------------------------------


def load_or_make(path: Path, make: Callable[..., Any]) -> Any:
    """What a file holds; made and written where there is none."""
    if not path.exists():
        began = time.process_time()
        table = make()
        table = {"cpu_seconds": round(time.process_time() - began, 1), "table": table}
        path.write_text(json.dumps(table))
    return json.loads(path.read_text())["table"]


def slug(name: str) -> str:
    """A name as a file's."""
    return "".join(c if c.isalnum() else "-" for c in name)


def row(*cells: object) -> str:
    """A line of a markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def number(value: float) -> str:
    """Short, whatever the size."""
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.1e}"


def head(*cells: str) -> str:
    """A markdown table's first two lines."""
    return row(*cells) + "\n|" + "---|" * len(cells)


def print_densities(found: dict[str, Any]) -> None:
    """Bayes accuracy, then the cross-likelihoods."""
    print(head("sigma", "thesis' flow", "ours, log p(x)", "ours without log-det", "the exact densities"))
    for sigma, table in found.items():
        bayes_of = [f"{table[kind]['bayes']:.3f}" for kind in ("full", "base", "exact")]
        print(row(sigma, THESIS_ACCURACY.get(float(sigma), "-"), *bayes_of))
    for kind, title in (("full", "log p(x)"), ("base", "base term alone, no log-det")):
        print(f"\n{title}, nats a sample, median over notes (mean)\n")
        print(head("sigma", "prior", *toy.WAVES, *(["exact, own"] if kind == "full" else [])))
        for sigma, table in found.items():
            for i, wave in enumerate(toy.WAVES):
                own = [both(table["exact"], i, i)] if kind == "full" else []
                cells = [both(table[kind], i, k) for k in range(len(toy.WAVES))]
                print(row(sigma if i == 0 else "", wave, *cells, *own))


def both(table: dict[str, Any], i: int, k: int) -> str:
    """Median and mean of what prior i says of wave k."""
    return f"{number(table['median'][i][k])} ({number(table['mean'][i][k])})"


def print_denoising(found: dict[str, Any]) -> None:
    """SDR of noisy and denoised notes."""
    print(head("sigma", "noisy", "denoised by the flows", "by the exact densities"))
    for sigma in found["flow"]:
        print(row(sigma, *(f"{sum(found[k][sigma]) / 4:.1f}" for k in ("noisy", "flow", "exact"))))


def print_separation(found: dict[str, list[Any]]) -> None:
    """Mean improvement by wave, over all, their median, and how many exceed 10 dB."""
    print(head("method", *toy.WAVES, "mean", "median", "over 10 dB"))
    for name, table in found.items():
        values = torch.tensor(table)
        share = f"{100 * float((values > 10).float().mean()):.0f} %"
        cells = [*values.mean(0).tolist(), float(values.mean()), float(values.median())]
        print(row(name, *(f"{v:.1f}" for v in cells), share))


def draw(folder: Path, priors: Model, found: dict[str, Any]) -> None:
    """thesis-likelihood.png and thesis-waves.png, in docs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.6), layout="constrained")
    shown = [s for s in ("0.01", "0.129", "0.359") if s in found]
    for i, sigma in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), i + 1)
        values = torch.tensor(found[sigma]["full"]["median"])
        best = values - values.max(0, keepdim=True)[0]
        axes.imshow(best, cmap="viridis", vmin=-3, vmax=0)
        for a in range(4):
            for b in range(4):
                light = "black" if float(best[a, b]) > -1.2 else "white"
                axes.text(
                    b, a, number(float(values[a, b])), ha="center", va="center", fontsize=7, color=light
                )
        axes.set_xticks(range(4), toy.WAVES, fontsize=7)
        axes.set_yticks(range(4), toy.WAVES if i == 0 else [""] * 4, fontsize=7)
        axes.set_title(f"sigma {sigma}", fontsize=9)
        axes.set_xlabel("notes of", fontsize=8)
    figure.axes[0].set_ylabel("prior of", fontsize=8)
    figure.savefig(DOCS / "thesis-likelihood.png", dpi=110)

    stems, mixes = windows(clips(folder, 1))
    runs = {
        "flows": langevin(mixes, priors),
        "exact densities": langevin(mixes, exact_model(priors)),
    }
    figure = Figure(figsize=(8, 6), layout="constrained")
    for i, wave in enumerate(["mixture", *toy.WAVES]):
        axes = figure.add_subplot(5, 1, i + 1)
        axes.plot(mixes[0] if i == 0 else stems[0, i - 1], color="0.2", linewidth=1, label="truth")
        for name, color in (("flows", "#0072B2"), ("exact densities", "#D55E00")) if i else ():
            axes.plot(runs[name][0, i - 1], color=color, linewidth=0.8, label=f"Langevin, {name}")
        axes.set_ylabel(wave, fontsize=8)
        axes.tick_params(labelsize=7)
        if i == 1:
            axes.legend(fontsize=7, loc="upper right", ncols=3)
    figure.axes[-1].set_xlabel("sample at 14.7 kHz", fontsize=8)
    figure.savefig(DOCS / "thesis-waves.png", dpi=110)


def main() -> None:
    """Train what is not trained, computes what is not computed, prints it all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=3000, help="of each prior")
    parser.add_argument("--encoder-steps", type=int, default=1000)
    parser.add_argument("--mixtures", type=int, default=12)
    parser.add_argument("--no-training", action="store_true", help="of priors as they are")
    parser.add_argument(
        "--music", type=Path, help="folder with a subfolder of solo recordings of drums, and others"
    )
    parser.add_argument(
        "--songs", type=Path, help="clips of two seconds with drums and rest, for the music's separation"
    )
    parser.add_argument(
        "--minutes", type=float, default=60, help="of the prior of drums; that of the rest has half of them"
    )
    options = parser.parse_args()
    began = time.monotonic()
    folder, tables = options.folder, options.folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    if options.music:
        music(folder, options.music, options.songs, options.minutes)
        return
    if not options.no_training:
        train(folder, options.steps, options.encoder_steps)
    priors = model.load(folder / "priors")
    steps = {wave: steps_of(folder / "priors", wave) for wave in toy.WAVES}
    print(f"Steps of training: {steps}; encoder {steps_of(folder / 'priors', 'encoder')}.\n")
    tables = tables / "-".join(str(n) for n in (*steps.values(), steps_of(folder / "priors", "encoder")))
    tables.mkdir(exist_ok=True)  # of these networks
    likelihoods = load_or_make(tables / "densities.json", lambda: densities(priors))
    print("### Which prior?\n")
    print_densities(likelihoods)
    print("\n### How far the score leads back\n")
    print_denoising(load_or_make(tables / "denoising.json", lambda: denoising(priors)))
    worst = load_or_make(tables / "inversion.json", lambda: {"worst": inversion(priors)})["worst"]
    print(f"\nInvertibility, float32, after training: |x - f^-1(f(x))| at most {worst:.1e}.")
    print(f"\n### Separation: SI-SDR improvement, dB, {options.mixtures} mixtures of four\n")
    runs = methods(folder, priors, options.mixtures)
    print_separation(
        {
            ", ".join(filter(None, (name, variant))): table
            for name, run in runs.items()
            for variant, table in load_or_make(tables / f"{slug(name)}-{options.mixtures}.json", run).items()
        }
    )
    stems, mixes = windows(clips(folder, options.mixtures))
    for title, of, place in (
        ("exact densities", exact_model(priors), "exact"),
        ("flows", priors, "flows"),
    ):
        print(f"\n### What Langevin depends on: {title}\n")
        found = {
            name: load_or_make(
                tables / f"{place}-{slug(name)}-{options.mixtures}.json",
                lambda changed=changed, of=of: improvement(
                    stems, langevin(mixes, of, **{"chains": 1, **changed})
                ),
            )
            for name, changed in VARIANTS.items()
        }
        print_separation(found)
    draw(folder, priors, likelihoods)
    used = os.times()
    cores = (used.user + used.system + used.children_user + used.children_system) / 60
    print(f"\n{(time.monotonic() - began) / 60:.0f} minutes in all, {cores:.0f} of one core's time.")


if __name__ == "__main__":
    main()

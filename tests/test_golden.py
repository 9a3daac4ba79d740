"""What the program computes stays what it was: losses of ten training steps, weights and stems at fixed seeds.

The figures in golden.json were written by `python tests/test_golden.py`; run it again only for a change that is
meant to alter results, and say so in the commit.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import deepsep
from deepsep import api
from deepsep.config import (
    ContrastTraining,
    EncoderTraining,
    PriorTraining,
    SpectralEncoderConfig,
    SpectralFlowConfig,
    SpectrumConfig,
    WaveformConfig,
    WaveformEncoderConfig,
    WaveformFlowConfig,
    WaveformSgldConfig,
)
from deepsep.progress import Listener
from deepsep.spectral.domain import SpectralDomain
from deepsep.waveform.domain import WaveformDomain

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).with_name("golden.json")
RATE = 16000
SPECTRUM = SpectrumConfig(rate=RATE, n_fft=256, single_bins=8)
BANDS = 32
EVERY = 997  # samples of a stem to one that is kept


def recording(seed, pitch, seconds=6.0):
    """Notes of a pitch that start and stop, over noise: (t, 2)."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    notes = np.sin(2 * np.pi * pitch * t * (1 + (t // 0.5 % 3) / 4)) * (0.2 + (t % 0.5 < 0.3))
    sound = 0.2 * notes[:, None] * [1.0, 0.6] + 0.02 * rng.normal(size=(len(t), 2))
    return sound.astype(np.float32)


def write_data(folder):
    """Two instruments' recordings, and a mixture of others of theirs."""
    for source, pitch in (("low", 200), ("high", 1500)):
        (folder / source).mkdir(parents=True)
        for number in range(3):
            soundfile.write(
                folder / source / f"{number}.wav", recording(number + pitch, pitch), RATE, "FLOAT"
            )
    return recording(7, 230, 3.1) + recording(8, 1400, 3.1)


def figures_of(run, *words, **named):
    """What a training shows after each step."""
    seen = []
    run(*words, **named, listener=Listener(step=lambda status: seen.append(status.figures)))
    return {key: [step[key] for step in seen if key in step] for key in seen[-1]}


def weights_of(path):
    """Sum and sum of squares of all weights in a file."""
    every = torch.cat([t.double().flatten() for t in load_file(path).values() if t.is_floating_point()])
    return [float(every.sum()), float(every.square().sum())]


TEN = {"bf16": False, "steps": 10, "batch": 4, "lr": 1e-3, "warmup": 2, "save_minutes": 1e9}


def spectral(folder, found):
    """Trains two priors of bands, an encoder with both objectives, and their contrast."""
    data = {s: folder / "data" / s for s in ("low", "high")}
    flow = SpectralFlowConfig(channels=BANDS, steps=3, hidden=8, layers=2)
    for source in data:
        found[f"spectral prior {source}"] = figures_of(
            deepsep.train_prior, source, data[source], folder / "bands", flow=flow,
            domain=SpectralDomain(spectrum=SPECTRUM), training=PriorTraining(frames=32, score_weight=0.1, **TEN),
        )  # fmt: skip
    net = SpectralEncoderConfig(bands=BANDS, widths=(4, 8), bottleneck=4, deep=1, context=36)
    found["spectral encoder"] = figures_of(
        deepsep.train_encoder, folder / "bands", data, network=net,
        training=EncoderTraining(optimizer="adamw", frames=32, workers=0, **TEN),
    )  # fmt: skip
    found["contrast"] = figures_of(
        deepsep.contrast_priors, folder / "bands", data, folder / "sharper",
        training=ContrastTraining(frames=32, workers=0, ema=0.999, **TEN),
    )  # fmt: skip
    for place in ("bands/low", "bands/high", "bands/encoder", "sharper/low", "sharper/high"):
        found[f"weights {place}"] = weights_of(folder / f"{place}.safetensors")
    return folder / "bands"


def waveform(folder, found):
    """Trains two waveform priors and their encoder with both objectives."""
    data = {s: folder / "data" / s for s in ("low", "high")}
    flow = WaveformFlowConfig(squeeze=(8, 2), flows=2, hidden=8, layers=2, mask="alternate", bands=BANDS)
    for source in data:
        found[f"waveform prior {source}"] = figures_of(
            deepsep.train_prior, source, data[source], folder / "samples", flow=flow,
            domain=WaveformDomain(waveform=WaveformConfig(rate=8000), spectrum=SPECTRUM),
            training=PriorTraining(score_weight=0.1, **TEN),
        )  # fmt: skip
    net = WaveformEncoderConfig(squeeze=8, hidden=8, layers=3, cycle=2)
    found["waveform encoder"] = figures_of(
        deepsep.train_encoder,
        folder / "samples",
        data,
        network=net,
        training=EncoderTraining(optimizer="adamw", **TEN),
    )
    for name in ("low", "high", "encoder"):
        found[f"weights samples/{name}"] = weights_of(folder / "samples" / f"{name}.safetensors")
    return folder / "samples"


def shaken(folder):
    """The same with every weight moved a little, so that ten steps' networks say something."""
    rng = torch.Generator().manual_seed(3)
    loaded = api.load_priors(str(folder), device="cpu")
    for module in (*loaded.priors.values(), loaded.encoder):
        for weight in module.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=rng)
    return loaded


def kept(stems):
    """Every so many samples of each stem."""
    return {name: stem[..., ::EVERY].flatten().tolist() for name, stem in stems.items()}


def compute(folder):
    """All figures."""
    found = {}
    mix = write_data(folder / "data").T
    warm = {"method": "sgld", "init": "encoder", "device": "cpu", "seed": 5}
    bands = shaken(spectral(folder, found))
    bands.encoder.spread = None  # as before the spread was measured against the truth
    common = {"priors": bands, "device": "cpu", "seed": 5}
    found["bands encoder"] = kept(api.separate(mix, RATE, **common, method="encoder"))
    one = {"chains": 1, "steps": 2, "average": 8, "temperature": 0.5, "likelihood": 1.0, "alpha": 1.0}
    found["bands sgld"] = kept(api.separate(mix, RATE, **common, method="sgld", init="mixture", sgld=one))
    found["bands warm"] = kept(api.separate(mix, RATE, **{**common, **warm}, sgld=one, pitches=1))
    found["bands sgld by default"] = kept(api.separate(mix, RATE, **{**common, **warm}))
    found["bands sgld draws"] = kept(api.separate(mix, RATE, **common, method="sgld", draws=2, pitches=1))
    found["bands encoder draws"] = kept(api.separate(mix, RATE, **common, method="encoder", draws=2))
    # of long chains the squares differ by 1e-3 between processors
    short = {"levels": 3, "steps": 1, "average": 3}
    for method, options in (("encoder", {}), ("sgld", {"sgld": short})):
        heard = []
        stems = api.separate(
            mix, RATE, **common, method=method, pitches=1, on_uncertainty=heard.append, **options
        )
        found[f"bands {method} unsure"] = kept(stems)
        found[f"bands {method} spread"] = (heard[0].std_kdn[..., ::29] ** 2).flatten().tolist()
    samples = shaken(waveform(folder, found))
    common["priors"] = samples
    fast = WaveformSgldConfig(levels=4, steps=2, sigma_max=1.0, sigma_min=0.1, chains=2, average=2)
    found["samples encoder"] = kept(api.separate(mix, RATE, **common, method="encoder"))
    found["samples sgld"] = kept(api.separate(mix, RATE, **common, method="sgld", init="mixture", sgld=fast))
    found["samples warm"] = kept(api.separate(mix, RATE, **{**common, **warm}, sgld=fast))
    found["samples sgld draws"] = kept(api.separate(mix, RATE, **common, method="sgld", draws=2, sgld=fast))
    found["samples encoder draws"] = kept(api.separate(mix, RATE, **common, method="encoder", draws=2))
    return found


def flat(tree, name=""):
    """Path -> array of every list of numbers."""
    if isinstance(tree, dict):
        return {k: v for key, part in tree.items() for k, v in flat(part, f"{name}/{key}").items()}
    return {name: np.array(tree)}


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    return flat(compute(tmp_path_factory.mktemp("golden")))


KNOWN = flat(json.loads(GOLDEN.read_text())) if GOLDEN.exists() else {}


def test_nothing_is_missing_or_new(computed):
    assert computed.keys() == KNOWN.keys()


@pytest.mark.parametrize("name", KNOWN)
def test_it_is_what_it_was(name, computed):
    scale = max(1.0, np.abs(KNOWN[name]).max())
    # a chain carries rounding errors on, and processors round differently
    tolerance = 1e-4 if "sgld" in name else 1e-5
    assert np.abs(computed[name] - KNOWN[name]).max() < tolerance * scale


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(compute(Path(folder)), indent=0) + "\n")
    sys.exit(0)

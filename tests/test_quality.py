"""The bundled weights separate real music, and swapped weights would be noticed."""

import json
import shutil
from pathlib import Path

import pytest
import stempeg

import deepsep
from deepsep.models import hub

SOURCES = ["vocals", "drums", "bass", "other"]
FLOORS = {"vocals": 3.0, "drums": 6.0, "bass": 3.0, "other": 1.5}  # dB of SDR that the encoder must reach
AHEAD = 0.2  # dB that Langevin must be ahead of the stationary filter


def score(folder, *methods):
    """SDR in dB of each method on the song that comes with stempeg: {method: {source: dB, "mean": dB}}."""
    model = deepsep.load_priors(str(folder), device="cpu")
    how = deepsep.Evaluation(methods=methods)
    results = deepsep.evaluate(stempeg.example_stem_path(), priors=model, how=how)
    assert results.sources == SOURCES
    return {
        method: {source: results.mean(method, source=source) for source in SOURCES}
        | {"mean": results.mean(method)}
        for method in methods
    }


def check_encoder(folder):
    """Fails where the encoder stays below a floor."""
    sdr = score(folder, "encoder")["encoder"]
    low = {source: round(sdr[source], 2) for source, floor in FLOORS.items() if not sdr[source] > floor}
    assert not low, f"below the floors {FLOORS}: {low}"


def check_priors(folder):
    """Fails where Langevin sampling from the mixture is not `AHEAD` of the same mean spectra as a filter.

    Each source is compared, not only the mean: two priors that are swapped still separate the other two.
    """
    sdr = score(folder, "stationary", "sgld")
    low = [key for key in (*SOURCES, "mean") if not sdr["sgld"][key] > sdr["stationary"][key] + AHEAD]
    assert not low, f"not above the stationary filter in {', '.join(low)}: {sdr}"


@pytest.fixture(scope="module")
def bundled():
    """The folder of the bundled weights; fails, never skips, where the package has none."""
    return hub.resolve("bundled").folder


@pytest.fixture
def copy(bundled, tmp_path):
    """A copy of the bundled weights, to be spoilt."""
    return Path(shutil.copytree(bundled, tmp_path / "copy"))


def test_the_encoder_reaches_its_floors(bundled):
    check_encoder(bundled)


@pytest.mark.slow
def test_priors_alone_are_better_than_a_stationary_filter(bundled):
    check_priors(bundled)


def test_swapped_outputs_of_the_encoder_are_noticed(copy):
    path = copy / "config.json"
    config = json.loads(path.read_text())
    assert config["encoder"]["sources"][:2] == ["vocals", "drums"]
    config["encoder"]["sources"][:2] = ["drums", "vocals"]
    path.write_text(json.dumps(config))
    with pytest.raises(AssertionError, match=r"below the floors .*: .*vocals.*drums"):
        check_encoder(copy)


@pytest.mark.slow
def test_swapped_priors_are_noticed(copy):
    vocals, drums, other = (copy / f"{name}.safetensors" for name in ("vocals", "drums", "swapped"))
    vocals.rename(other)
    drums.rename(vocals)
    other.rename(drums)
    path = copy / "config.json"
    config = json.loads(path.read_text())
    files = config["files"]
    files[vocals.name], files[drums.name] = files[drums.name], files[vocals.name]
    path.write_text(json.dumps(config))
    with pytest.raises(AssertionError, match=r"not above the stationary filter in vocals, drums"):
        check_priors(copy)

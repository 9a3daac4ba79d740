import subprocess
import sys

import numpy as np
import pytest
from cli_fixtures import ROUNDING
from hub_server import HubServer, Repo
from processes import PATIENCE
from tiny import SPECTRUM, files_of, folder_of, point_client

import deepsep
from deepsep.models import hub

RATE = 22050
QUICK = deepsep.SpectralSgldConfig(levels=2, steps=1, average=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("band"), "vocals", "drums", "bass", encoder=True)


@pytest.fixture(scope="module")
def priors(folder):
    return deepsep.load_priors(str(folder))


def noise(*shape, size=0.3):
    return (size * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("method", ["encoder", "sgld"])
@pytest.mark.parametrize("shape", [(5000,), (2, 5001)])
def test_draws_are_separations_that_differ(priors, method, shape):
    samples = noise(*shape)
    stems = deepsep.separate(samples, RATE, priors=priors, method=method, draws=3)
    assert {stem.shape for stem in stems.values()} == {(3, *shape)}
    np.testing.assert_allclose(sum(stems.values()), np.stack([samples] * 3), atol=1e-5)
    for other in (1, 2):
        assert np.abs(stems["bass"][0] - stems["bass"][other]).max() > 1e-4


@pytest.mark.parametrize("method", ["encoder", "sgld"])
def test_uncertainty_comes_with_the_stems_it_is_about(priors, method):
    heard = []
    stems = deepsep.separate(noise(2, 9000), RATE, priors=priors, method=method, on_uncertainty=heard.append)
    assert len(heard) == 1 and isinstance(heard[0], deepsep.Uncertainty)
    assert list(heard[0].by_stem()) == list(stems)
    assert heard[0].std_kdn.shape == (3, len(heard[0].band_hz), len(heard[0].time_s))
    assert 0 < heard[0].std_kdn.max() <= 0.5


def test_draws_sample_the_posterior_itself(priors):
    samples = noise(6000)
    hot, cold = (
        deepsep.SpectralSgldConfig(temperature=t, likelihood=1.0, pool=1.0, alpha=2.0, steps=2, average=8)
        for t in (1.0, 0.5)
    )
    usual, same, other = (
        deepsep.separate(samples, RATE, priors=priors, method="sgld", draws=2, sgld=sgld)["bass"]
        for sgld in (None, hot, cold)
    )
    np.testing.assert_array_equal(usual, same)
    assert np.abs(usual - other).max() > 1e-4


@pytest.mark.parametrize("method", ["encoder", "sgld"])
@pytest.mark.parametrize("shape", [(5000,), (1, 5000), (2, 5001), (3, 7)])
def test_stems_have_the_shape_of_the_samples_and_add_up_to_them(priors, method, shape):
    samples = noise(*shape)
    kept = samples.copy()
    stems = deepsep.separate(
        samples, RATE, priors=priors, method=method, sgld=QUICK if method == "sgld" else None
    )
    assert list(stems) == ["vocals", "drums", "bass"]
    assert {(stem.shape, stem.dtype) for stem in stems.values()} == {(shape, np.dtype(np.float32))}
    np.testing.assert_allclose(sum(stems.values()), samples, atol=1e-5)
    np.testing.assert_array_equal(samples, kept)
    assert not np.allclose(stems["vocals"], stems["drums"])


def test_loading_once_is_the_same_as_naming_the_priors(folder, priors):
    samples = noise(2, 6000)
    one = deepsep.separate(samples, RATE, priors=priors)
    other = deepsep.separate(samples, RATE, priors=str(folder))
    assert all(np.array_equal(one[source], other[source]) for source in priors.sources)


def test_long_recordings_do_not_depend_on_blocks_or_batches(priors, monkeypatch):
    samples = noise(40_000)
    whole = deepsep.separate(samples, RATE, priors=priors)
    monkeypatch.setattr("deepsep.api.BLOCK", 3_001)
    pieces = deepsep.separate(samples, RATE, priors=priors, batch_size=1)
    for source in priors.sources:
        np.testing.assert_allclose(pieces[source], whole[source], atol=1e-5)


def test_a_seed_decides(priors):
    hot = deepsep.SpectralSgldConfig(levels=2, steps=1, average=1, temperature=1.0)
    one, same, other = (
        deepsep.separate(noise(6000), RATE, priors=priors, method="sgld", sgld=hot, seed=seed)["bass"]
        for seed in (1, 1, 2)
    )
    np.testing.assert_allclose(same, one, rtol=0, atol=ROUNDING)
    assert np.abs(other - one).max() > 10 * ROUNDING


def test_silence_gives_silence(priors):
    stems = deepsep.separate(np.zeros((2, 900)), RATE, priors=priors)
    assert all(stem.shape == (2, 900) and not stem.any() for stem in stems.values())


def test_progress_grows_to_one(priors):
    heard = []
    deepsep.separate(noise(30_000), RATE, priors=priors, on_progress=heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert heard[0] > 0


@pytest.mark.parametrize(
    ("samples", "rate", "says"),
    [
        (np.zeros((2, 9), np.int16), RATE, "divide 16-bit integers by 32768"),
        ([0.0, 0.1], RATE, "got list"),
        (np.zeros(9, complex), RATE, "floats, got complex128"),
        (np.zeros((2, 2, 9)), RATE, r"shape \(c, t\) or \(t,\)"),
        (np.float64(0.5) * np.ones(()), RATE, "must be|must have"),
        (np.zeros((2, 0)), RATE, r"got \(2, 0\)"),
        (np.zeros((900, 2)), RATE, "900 channels.*transpose"),
        (np.zeros((9, 900)), RATE, "9 channels.*are separated$"),
        (np.array([0.0, np.nan]), RATE, "NaN"),
        (np.array([0.0, np.inf]), RATE, "infinity"),
        (np.zeros(9), 44100.0, "whole number of Hz"),
        (np.zeros(9), 0, "whole number of Hz"),
        (np.zeros(9), True, "whole number of Hz"),
    ],
)
def test_what_cannot_be_separated_is_said_before_any_work(samples, rate, says):
    with pytest.raises(deepsep.DeepsepError, match=says):
        deepsep.separate(samples, rate, priors="./nowhere")


def test_unknown_words_are_errors(priors):
    for words in (
        {"method": "magic"}, {"init": "magic"}, {"device": "abacus"}, {"priors": "./nowhere"}, {"batch_size": 0},
        {"draws": 1},
        {"draws": 2, "method": "sgld", "sgld": deepsep.SpectralSgldConfig(temperature=0)},
        {"sgld": QUICK}, {"method": "sgld", "sgld": {"gamma": 1.0}}, {"method": "sgld", "sgld": {"colour": 1}},
        {"method": "sgld", "sgld": deepsep.WaveformSgldConfig()},
    ):  # fmt: skip
        with pytest.raises(deepsep.DeepsepError):
            deepsep.separate(noise(900), RATE, **{"priors": priors, **words})


def test_sources_are_picked_and_replaced(folder, tmp_path):
    other = folder_of(tmp_path / "piano", "piano")
    model = deepsep.load_priors(str(folder), {"piano": str(other)}, sources=["piano", "vocals"])
    assert model.sources == ["piano", "vocals"]
    assert model.encoder is None
    assert (model.info.origins["piano"].priors, model.info.origins["piano"].commit) == (str(other), None)
    assert list(deepsep.separate(noise(900), RATE, priors=model, sgld=QUICK)) == ["piano", "vocals"]


def test_no_sources_are_not_all_of_them(folder):
    with pytest.raises(deepsep.DeepsepError, match=r"no source is named; .* has vocals, drums, bass"):
        deepsep.load_priors(str(folder), sources=[])


def test_hub_priors_tell_progress_and_commit(folder, tmp_path, monkeypatch):
    heard = []
    with HubServer() as server:
        server.repos["ana/band"] = Repo()
        commit = server.repos["ana/band"].commit(files_of(folder))
        point_client(monkeypatch, server.url, tmp_path / "cache")
        with pytest.raises(deepsep.DeepsepError, match="offline"):
            deepsep.load_priors("ana/band", offline=True)
        assert server.log == []
        model = deepsep.load_priors("ana/band", on_progress=lambda *told: heard.append(told))
        assert model.info.origins["drums"].commit == commit
        server.log.clear()
        deepsep.separate(noise(900), RATE, priors=f"ana/band@{commit}", offline=True)
        assert server.log == []
    size = (folder / "drums.safetensors").stat().st_size
    assert ("drums.safetensors", size, size) in heard


def test_bundled_is_the_default(folder, monkeypatch):
    monkeypatch.setattr(hub, "bundled_folder", lambda: folder)
    assert deepsep.load_priors().domain.spectrum == SPECTRUM
    assert list(deepsep.separate(noise(900), RATE)) == ["vocals", "drums", "bass"]


def test_the_import_is_light():
    code = (
        "import sys, time\n"
        "start = time.process_time()\n"
        "import deepsep\n"
        "took = time.process_time() - start\n"
        "assert not {'torch', 'numpy', 'huggingface_hub', 'soundfile'} & sys.modules.keys()\n"
        "print(took)\n"
    )
    done = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
        for _ in range(3)
    ]
    assert all(run.returncode == 0 for run in done), done[0].stderr
    assert min(float(run.stdout) for run in done) < 0.2


def test_every_public_name_is_there():
    assert set(deepsep.__all__) <= set(dir(deepsep))
    for name in deepsep.__all__:
        assert getattr(deepsep, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        deepsep.nothing  # noqa: B018

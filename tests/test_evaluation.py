from __future__ import annotations

import errno
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from tiny import folder_of

from deepsep.config import SpectralEncoderConfig, SpectralFlowConfig, SpectralSgldConfig, SpectrumConfig
from deepsep.errors import DeepsepError
from deepsep.evaluation import baselines, metrics, songs
from deepsep.evaluation import run as evaluation
from deepsep.evaluation.results import METRICS, Results
from deepsep.evaluation.run import Evaluation
from deepsep.inference.domain import Separation
from deepsep.inference.model import Model
from deepsep.inference.settings import Settings
from deepsep.separation import measure, separate_blocks
from deepsep.spectral.domain import SpectralDomain
from deepsep.spectral.spectrum import Spectrum

RATE = 8000
SPECTRUM = SpectrumConfig(rate=RATE, n_fft=256, single_bins=16)
SOURCES = ("vocals", "drums", "bass")
DOMAIN = SpectralDomain(spectrum=SPECTRUM)
FAST = Evaluation(sgld=SpectralSgldConfig(levels=2, steps=1, average=1))


def sounds(seconds: float = 1.0, rate: int = RATE) -> dict[str, np.ndarray]:
    """A gliding tone, bursts of noise and a low tone, in stereo."""
    t = np.arange(round(seconds * rate)) / rate
    random = np.random.default_rng(0)
    noise = random.standard_normal((2, len(t))) * np.exp(-(t % 0.25) * 30)
    vocals = np.sin(2 * np.pi * (700 * t + 300 * t**2)) * np.array([[0.3], [0.2]])
    bass = np.sin(2 * np.pi * 110 * t) * np.array([[0.3], [0.3]])
    return {"vocals": vocals, "drums": 0.2 * noise, "bass": bass}


def write_song(folder: Path, stems: dict[str, np.ndarray], rate: int = RATE, suffix: str = "wav") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, samples in stems.items():
        sf.write(folder / f"{name}.{suffix}", samples.T, rate, subtype="FLOAT" if suffix == "wav" else None)
    return folder


@pytest.fixture(scope="module")
def model() -> Model:
    """Untrained flows whose whitening knows the sources' mean spectra, and an untrained encoder."""
    spectrum = Spectrum(SPECTRUM)
    priors = {}
    shape = SpectralFlowConfig(channels=spectrum.bands, hidden=8, steps=1, layers=1)
    for name, samples in sounds().items():
        power = spectrum.band_power(spectrum.analyse(torch.tensor(samples).float()).abs().square().mean(0))
        rng = torch.Generator().manual_seed(0)
        priors[name] = DOMAIN.build_flow(shape, rng).eval()
        priors[name].whitening.fit(spectrum.to_x(power).T)
        priors[name].requires_grad_(False)
    torch.manual_seed(0)
    net = SpectralEncoderConfig(bands=spectrum.bands, widths=(4,), bottleneck=4, deep=0, context=10)
    encoder = DOMAIN.build_encoder(net, len(priors))
    return Model(DOMAIN, priors, encoder.eval().requires_grad_(False))


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_song(tmp_path_factory.mktemp("songs") / "tune", sounds())


def run(path: Path, model: Model, *methods: str, on_progress=None, **options) -> Results:
    how = replace(FAST, methods=methods, **options)
    return evaluation.evaluate(songs.find_songs(path), model, how, on_progress=on_progress)


# --- finding songs ---------------------------------------------------------------------------------------


def test_a_folder_of_stems_is_a_song_and_a_folder_of_songs_is_searched(tmp_path: Path) -> None:
    (tmp_path / "b" / "deep" / "notes").mkdir(parents=True)
    for name in ("b/deep/vocals.flac", "b/deep/Mixture.WAV", "a/bass.wav", "a/cover.png", "a/.drums.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("train/One - Song.stem.mp4", "test/Two.stem.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {s.name: s for s in songs.find_songs(tmp_path)}
    assert list(found) == ["a", "b/deep", "test/Two", "train/One - Song"]
    assert set(found["a"].stems) == {"bass"}
    assert found["b/deep"].mixture == tmp_path / "b/deep/Mixture.WAV"
    assert set(found["b/deep"].stems) == {"vocals"}
    assert found["test/Two"].container == tmp_path / "test/Two.stem.mp4"
    assert [s.name for s in songs.find_songs(tmp_path / "a")] == ["a"]
    assert [s.name for s in songs.find_songs(tmp_path / "test/Two.stem.mp4")] == ["Two"]


@pytest.mark.parametrize("name", ["none", "empty", "only-mixture", "plain.wav", "twice"])
def test_what_is_no_song_is_one_clear_line(tmp_path: Path, name: str) -> None:
    for path in (
        "empty/read.me",
        "only-mixture/mixture.wav",
        "plain.wav",
        "twice/bass.wav",
        "twice/bass.flac",
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    with pytest.raises(DeepsepError, match=name) as error:
        songs.find_songs(tmp_path / name)
    assert "\n" not in str(error.value)


# --- reading ---------------------------------------------------------------------------------------------


def only(path: Path, seconds: float | None = None) -> songs.Clip:
    (found,) = songs.find_songs(path)
    return songs.read(found, SOURCES, seconds)


def test_a_missing_mixture_is_the_sum_of_every_stem(tmp_path: Path) -> None:
    stems = {**sounds(), "flute": sounds()["vocals"][:, ::-1]}
    clip = only(write_song(tmp_path / "s", stems))
    assert np.allclose(clip.mixture_ct, np.sum(list(stems.values()), 0), atol=1e-6)
    assert set(clip.references) == set(SOURCES)
    assert any("flute" in note for note in clip.notes)


def test_stems_of_other_lengths_rates_and_channels_fit_the_mixture(tmp_path: Path) -> None:
    stems = sounds()
    folder = write_song(tmp_path / "s", {"mixture": np.sum(list(stems.values()), 0)})
    write_song(folder, {"vocals": stems["vocals"][:, :5000], "drums": stems["drums"][:1]})
    write_song(folder, {"bass": sounds(1.0, 2 * RATE)["bass"]}, 2 * RATE)
    clip = only(folder)
    assert {p.shape for p in clip.references.values()} == {clip.mixture_ct.shape} == {(2, RATE)}
    assert metrics.sdr(stems["bass"], clip.references["bass"]) > 40
    assert not clip.references["vocals"][:, 5000:].any()
    assert np.array_equal(clip.references["drums"][0], clip.references["drums"][1])


def test_an_excerpt_is_where_the_sources_are(tmp_path: Path) -> None:
    stems = {name: np.pad(s, ((0, 0), (3 * RATE, 2 * RATE))) for name, s in sounds().items()}
    clip = only(write_song(tmp_path / "s", stems), 1.0)
    assert clip.mixture_ct.shape == (2, RATE)
    kept = np.square(clip.mixture_ct).sum() / np.square(np.sum(list(stems.values()), 0)).sum()
    assert kept > 0.99
    assert only(tmp_path / "s", 60.0).seconds == 6.0
    assert only(tmp_path / "s", 5.999).mixture_ct.shape == (2, round(5.999 * RATE))


def test_a_song_of_other_instruments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeepsepError, match="flute"):
        only(write_song(tmp_path / "s", {"flute": sounds()["vocals"]}))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_a_stem_file_is_read_alike_by_ffmpeg_and_by_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    stempeg = pytest.importorskip("stempeg")
    (path,) = (Path(stempeg.__file__).parent / "data").glob("*.stem.mp4")
    (found,) = songs.find_songs(path)
    clip = songs.read(found, ["vocals", "drums", "bass", "other"])
    assert list(clip.references) == ["vocals", "drums", "bass", "other"]
    assert np.allclose(clip.mixture_ct, np.sum(list(clip.references.values()), 0), atol=1e-5)
    assert any("mastered" in note for note in clip.notes)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    again = songs.read(found, ["vocals", "drums", "bass", "other"])
    for name, samples in clip.references.items():
        assert metrics.sdr(samples, again.references[name][:, : samples.shape[1]]) > 60


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_a_list_of_other_files_is_no_stem_file(tmp_path: Path) -> None:
    path = tmp_path / "a.stem.mp4"
    path.write_text("ffconcat version 1.0\nfile other.stem.mp4\n")
    with pytest.raises(DeepsepError, match="no audio found"):
        songs.stem_streams(path)


# --- methods ---------------------------------------------------------------------------------------------


def test_the_mixture_as_estimate_has_the_rest_as_its_error(song: Path, model: Model) -> None:
    results = run(song, model, "mixture")
    stems = sounds()
    for name, own in stems.items():
        rest = np.sum([s for other, s in stems.items() if other != name], 0)
        expected = 10 * math.log10(np.square(own).sum() / np.square(rest).sum())
        assert results.mean("mixture", song="tune", source=name) == pytest.approx(expected, abs=1e-3)


def test_the_oracle_is_the_ceiling(song: Path, model: Model) -> None:
    results = run(song, model)
    assert results.methods == [m for m in evaluation.METHODS if m != "nmf"]
    assert set(results.took) == set(results.methods)
    for name in SOURCES:
        figures = {m: results.mean(m, song="tune", source=name) for m in results.methods}
        assert max(figures, key=lambda m: figures[m]).startswith("oracle")
    best = results.mean("oracle")
    assert all(results.mean(m) < best for m in results.methods if not m.startswith("oracle"))
    assert results.mean("mixture") + 3 < results.mean("stationary")
    assert best <= results.mean("oracle-full") + 0.1


@pytest.mark.parametrize("method", ["stationary", "sgld", "encoder", "encoder+sgld", "nmf", "oracle"])
@pytest.mark.parametrize("rate", [RATE, RATE // 2, 3 * RATE])
def test_estimates_sum_to_the_mixture_at_the_songs_own_rate(
    method: str, rate: int, model: Model, tmp_path: Path
) -> None:
    if method == "nmf":
        pytest.importorskip("sklearn")
    clip = only(write_song(tmp_path / "s", sounds(0.6, rate), rate))
    bands = Spectrum(SPECTRUM).bands
    atoms = {s: np.random.default_rng(i).random((2, bands)) for i, s in enumerate(SOURCES)}
    analysis = baselines.Analysis(clip, model)
    stems = evaluation.estimate(method, analysis, model, FAST, baselines.NmfDictionaries(atoms, 5))
    assert stems.shape == (3, *clip.mixture_ct.shape)
    assert metrics.sdr(clip.mixture_ct, stems.sum(0)) > (60 if method != "oracle" or rate == RATE else 40)


def test_the_model_takes_the_route_of_separation(song: Path, model: Model) -> None:
    clip = only(song)
    track = measure([clip.mixture_ct], RATE)
    separation = Separation(track, model, Settings(method="encoder"), [[0], [1], [2]])
    separated = separate_blocks(np.array_split(clip.mixture_ct, 5, axis=1), separation)
    stems = np.concatenate(list(separated), -1)[0]
    found = evaluation.estimate("encoder", baselines.Analysis(clip, model), model, FAST, None)
    assert np.allclose(found, stems, atol=1e-5)


def test_nmf_learns_each_source_from_its_own_recordings(tmp_path: Path, song: Path, model: Model) -> None:
    pytest.importorskip("sklearn")
    folders = {s: write_song(tmp_path / s, {"solo": x}) for s, x in sounds(3.0).items()}
    results = run(song, model, "mixture", "nmf", nmf_data=folders)
    assert results.mean("nmf") > results.mean("mixture") + 6
    again = run(song, model, "nmf", nmf_data=folders)
    assert again.mean("nmf") == results.mean("nmf")
    with pytest.raises(DeepsepError, match="drums"):
        run(song, model, "nmf", nmf_data={"vocals": folders["vocals"], "bass": folders["bass"]})


def test_what_cannot_run_is_said_before_any_song_is_read(song: Path, model: Model) -> None:
    missing = [songs.Song(name="gone", stems={"vocals": Path("gone/vocals.wav")})]
    with pytest.raises(DeepsepError, match="choose from mixture"):
        evaluation.evaluate(missing, model, Evaluation(methods=["magic"]))
    alone = Model(model.domain, model.priors)
    assert "encoder" not in evaluation.default_methods(alone)
    with pytest.raises(DeepsepError, match="no encoder"):
        evaluation.evaluate(missing, alone, Evaluation(methods=["mixture", "encoder+sgld"]))
    with pytest.raises(DeepsepError, match="longer than 0"):
        evaluation.evaluate(missing, model, Evaluation(methods=["mixture"], seconds=0))


# --- scores ----------------------------------------------------------------------------------------------


def test_a_silent_reference_is_not_scored_and_that_is_said(tmp_path: Path, model: Model) -> None:
    stems = sounds()
    stems["bass"] = stems["bass"] * 1e-6  # what a lossy codec leaves of silence
    results = run(write_song(tmp_path / "tune", stems), model, "mixture", "stationary", "oracle")
    assert {s.source for s in results.scores} == {"vocals", "drums"}
    assert math.isnan(results.mean("oracle", song="tune", source="bass"))
    assert not math.isnan(results.mean("oracle"))
    assert "tune: bass silent, not scored" in results.notes


def test_a_song_of_silence_leaves_nothing_to_score(tmp_path: Path, model: Model) -> None:
    results = run(write_song(tmp_path / "s", {"bass": np.zeros((2, RATE))}), model, "mixture", "sgld")
    assert not results.scores
    assert math.isnan(results.mean("sgld"))
    assert json.loads(results.to_json())["mean"]["sgld"]["sdr"]["mean"] is None


def test_any_subset_of_sources_is_scored_while_all_are_separated(tmp_path: Path, model: Model) -> None:
    stems = sounds()
    folder = write_song(
        tmp_path / "tune", {"drums": stems["drums"], "mixture": np.sum(list(stems.values()), 0)}
    )
    results = run(folder, model, "mixture", "stationary", "oracle")
    assert {s.source for s in results.scores} == {"drums"}
    assert any("no reference for vocals, bass" in note for note in results.notes)
    assert results.mean("mixture") < results.mean("stationary") < results.mean("oracle")


def test_the_total_is_the_mean_of_the_songs_not_of_the_sources(tmp_path: Path, model: Model) -> None:
    write_song(tmp_path / "a", sounds())
    write_song(tmp_path / "b", {k: v for k, v in sounds().items() if k != "drums"})
    heard: list[tuple[int, int, str]] = []
    results = run(tmp_path, model, "mixture", "stationary", on_progress=lambda *step: heard.append(step))
    means = [results.mean("stationary", song=s) for s in ("a", "b")]
    assert results.mean("stationary") == pytest.approx(np.mean(means))
    drums = results.mean("stationary", song="a", source="drums")
    assert results.mean("stationary", source="drums") == drums
    assert heard[-1][:2] == (4, 4)
    assert [step[0] for step in heard] == sorted(step[0] for step in heard)
    assert {n: s for n, s in results.lengths.items()} == {"a": 1.0, "b": 1.0}


def test_songs_of_one_name_stay_apart(tmp_path: Path, model: Model) -> None:
    one = songs.find_songs(write_song(tmp_path / "x" / "tune", sounds()))
    results = evaluation.evaluate([*one, *one], model, Evaluation(methods=["mixture"]))
    assert results.songs == ["tune", "tune (2)"]


def test_table_json_and_plot_tell_the_same(tmp_path: Path, song: Path, model: Model) -> None:
    results = run(song, model, "mixture", "oracle")
    heading, first, second = results.table()
    assert heading == ["song", "method", *SOURCES, "mean"]
    assert first[:2] == ["tune", "mixture"] and second[:2] == ["", "oracle"]
    told = json.loads(results.to_json())
    assert told["songs"]["tune"]["methods"]["oracle"]["sdr"]["mean"] == pytest.approx(
        float(second[-1]), abs=0.01
    )
    assert set(told["mean"]["oracle"]) == set(METRICS)
    assert results.table("si_sdr")[1] != first
    pytest.importorskip("matplotlib")
    for suffix in ("png", "svg"):
        results.plot(tmp_path / f"scores.{suffix}")
        assert (tmp_path / f"scores.{suffix}").stat().st_size > 1000
    for name in ("scores.nonsense", "scores"):
        with pytest.raises(DeepsepError, match=rf"{name}: .*; name a .png, .svg or .pdf"):
            results.plot(tmp_path / name)
    assert not list(tmp_path.glob("scores")) + list(tmp_path.glob("*nonsense*"))


# --- on the command line ---------------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Priors and songs beside one another: good ones of awkward names, and two that cannot be read."""
    folder_of(tmp_path / "priors", *SOURCES)
    for name in ("a [/b]", "$\\frac{$", "\x1b[31mred", "whole"):
        write_song(tmp_path / "songs" / name, sounds(0.5))
    write_song(tmp_path / "songs" / "broken", sounds(0.5))
    (tmp_path / "songs" / "broken" / "bass.wav").write_bytes(b"no audio at all")
    write_song(tmp_path / "songs" / "empty", {"flute": sounds(0.5)["vocals"]})
    return tmp_path


def test_a_broken_song_costs_only_itself(album: Path, deepsep) -> None:
    words = ("evaluate", album / "songs", "--priors", album / "priors", "--methods", "mixture,oracle")
    code, out, err = deepsep(*words)
    assert code == 1
    for name in ("a [/b]", "$\\frac{$", "?[31mred", "whole", "mean of 4 songs"):
        assert name in out, name
    assert "\x1b" not in out + err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2
    assert "bass.wav: no audio found" in lines[0] and "empty: has a reference for none of" in lines[1]
    code, out, err = deepsep(*words, "--json", "-q")
    told = json.loads(out)
    assert code == 1 and out.isascii()
    assert set(told["failed"]) == {"broken", "empty"} and len(told["songs"]) == 4
    assert told["mean"]["oracle"]["sdr"]["mean"] > told["mean"]["mixture"]["sdr"]["mean"]


def test_songs_that_are_all_broken_leave_no_table(album: Path, deepsep) -> None:
    code, out, err = deepsep(
        "evaluate", album / "songs" / "broken", "--priors", album / "priors", "-q", "--methods", "mixture"
    )
    assert (code, out) == (1, "") and err.startswith("error: ") and err.count("\n") == 1


def quick_evaluation(album: Path) -> tuple[object, ...]:
    """The words that score one song by the quickest method."""
    return ("evaluate", album / "songs" / "whole", "--priors", album / "priors", "--methods", "mixture", "-q")


@pytest.mark.parametrize("name", ["file/below.png", "folder.png"])
def test_a_plot_that_cannot_be_written_costs_only_the_plot(name: str, album: Path, deepsep) -> None:
    pytest.importorskip("matplotlib")
    (album / "file").write_text("mine")
    (album / "folder.png").mkdir()
    before = sorted(path.name for path in album.iterdir())
    words = quick_evaluation(album)
    code, out, err = deepsep(*words, "--plot", album / name, "--overwrite")
    assert code == 1 and "whole" in out
    assert err.startswith("error: ") and err.count("\n") == 1 and ".svg" not in err
    assert sorted(path.name for path in album.iterdir()) == before


@pytest.mark.parametrize("song", ["a [/b]", "$\\frac{$", "\x1b[31mred"])
def test_a_plot_of_a_song_of_any_name(song: str, album: Path, deepsep) -> None:
    pytest.importorskip("matplotlib")
    words = ("evaluate", album / "songs" / song, "--priors", album / "priors", "-q", "--methods", "mixture")
    code, _, err = deepsep(*words, "--plot", album / "new" / "plot.png")
    assert (code, err) == (0, "")
    assert (album / "new" / "plot.png").stat().st_size > 1000


def test_without_matplotlib_a_plot_is_refused_before_the_work(album: Path, deepsep, monkeypatch) -> None:
    monkeypatch.setattr("deepsep.evaluation.results.find_spec", lambda name: None)
    line = deepsep.bad("evaluate", album / "songs" / "whole", "--priors", album / "priors", "--plot", "a.png")
    assert "a plot needs matplotlib" in line


def test_a_plot_is_refused_before_the_work_where_it_would_replace_a_file(album: Path, deepsep) -> None:
    pytest.importorskip("matplotlib")
    (album / "e.png").write_bytes(b"mine")
    words = quick_evaluation(album)
    assert deepsep.bad(*words, "--plot", "e.png") == "error: e.png exists; use --overwrite to replace it\n"
    assert (album / "e.png").read_bytes() == b"mine"
    assert "name a .png, .svg or .pdf" in deepsep.bad(*words, "--plot", "e.nonsense")
    deepsep.good(*words, "--plot", "e.png", "--overwrite")
    assert (album / "e.png").stat().st_size > 1000
    code, _, err = deepsep(*words, "--overwrite")
    assert code == 2 and "--overwrite is of --plot" in err


def test_a_plot_on_a_full_disk_says_nothing_of_formats(album: Path, deepsep, monkeypatch) -> None:
    pytest.importorskip("matplotlib")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    words = quick_evaluation(album)
    code, out, err = deepsep(*words, "--plot", "e.png")
    assert code == 1 and "whole" in out
    assert err == "error: e.png: the plot cannot be written (No space left on device)\n"
    assert not (album / "e.png").exists()


def test_a_plot_that_another_process_draws_meanwhile_is_kept(album: Path, deepsep, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    save = Figure.savefig

    def save_while_another_writes(*args, **options):
        (album / "e.png").write_bytes(b"theirs")
        save(*args, **options)

    monkeypatch.setattr(Figure, "savefig", save_while_another_writes)
    words = quick_evaluation(album)
    code, _, err = deepsep(*words, "--plot", "e.png")
    assert code == 1 and "another process has written it; use --overwrite" in err
    assert (album / "e.png").read_bytes() == b"theirs"

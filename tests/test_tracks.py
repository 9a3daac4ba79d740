"""What is typed becomes files, and files become outputs, before any work."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepsep.config import SgldConfig, SpectrumConfig
from deepsep.errors import DeepsepError
from deepsep.inference import chunks
from deepsep.output import tracks
from deepsep.spectral import infer as inference
from deepsep.spectral import uncertainty
from deepsep.spectral.infer import Settings
from deepsep.spectral.spectrum import Spectrum

SMALL = SpectrumConfig(rate=16000, n_fft=256, single_bins=8)


def names(found):
    files, problems = found
    assert problems == []
    return [str(path) for path in files]


@pytest.fixture
def music(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.wav", "a.FLAC", ".hidden.wav", "._b.wav", "notes.txt", "sub/c.ogg", "sub/.cache/d.wav"):
        path = Path("music", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return Path("music")


def test_a_folder_means_its_audio_files(music):
    assert names(tracks.expand_inputs(["music"])) == ["music/a.FLAC", "music/b.wav"]
    deep = names(tracks.expand_inputs(["music"], recursive=True))
    assert deep == ["music/a.FLAC", "music/b.wav", "music/sub/c.ogg"]


def test_earlier_outputs_are_no_inputs(music):
    deep = names(tracks.expand_inputs(["music"], recursive=True, avoid=Path("music/sub")))
    assert deep == ["music/a.FLAC", "music/b.wav"]
    assert names(tracks.expand_inputs(["music/sub/c.ogg"], avoid=Path("music/sub"))) == ["music/sub/c.ogg"]


def test_globs_are_ours_where_the_shell_leaves_them(music):
    assert names(tracks.expand_inputs(["music/*.wav"])) == ["music/b.wav"]
    assert names(tracks.expand_inputs(["music/**/*.ogg"])) == ["music/sub/c.ogg"]
    assert names(tracks.expand_inputs(["mus*"])) == ["music/a.FLAC", "music/b.wav"]


def test_a_name_with_brackets_is_a_name_first(music):
    for name in ("x [live].wav", "x l.wav"):
        (music / name).touch()
    assert names(tracks.expand_inputs(["music/x [live].wav"])) == ["music/x [live].wav"]


def test_each_file_once_whatever_way_it_is_reached(music):
    os.symlink("music", "again")
    os.symlink("b.wav", "music/other name.wav")
    ways = [
        "music/b.wav",
        "./music/b.wav",
        os.path.abspath("music/b.wav"),
        "again/b.wav",
        "music/../music/b.wav",
    ]
    assert names(tracks.expand_inputs(ways)) == ["music/b.wav"]
    assert names(tracks.expand_inputs(["music/b.wav", "music/other name.wav"])) == [
        "music/b.wav", "music/other name.wav",
    ]  # fmt: skip


def test_what_holds_nothing_is_told_apart(music):
    Path("nothing").mkdir()
    files, problems = tracks.expand_inputs(["nothing", "*.mp3", "gone.wav", "~no such user/x.wav"])
    assert [str(path) for path in files] == ["gone.wav", "~no such user/x.wav"]  # reading them will tell
    assert [str(problem).split(":")[0] for problem in problems] == ["nothing", "*.mp3"]


# --- outputs


def output(**changes):
    return tracks.Output(
        **{"folder": Path("out"), "stems": {"vocals": ["vocals"], "rest": ["rest"]}, **changes}
    )


def planned(paths, priors="", skip=False, **changes):
    inputs = [tracks.Input(Path(path), str(path)) for path in paths]
    return tracks.plan(inputs, output(**changes), priors=priors, skip_existing=skip)


def outputs(job):
    return {name: path.as_posix() for name, path in {**job.paths, **job.extras}.items()}


def test_default_places(music):
    assert outputs(planned(["music/b.wav"])[0]) == {
        "vocals": "out/b/vocals.wav",
        "rest": "out/b/rest.wav",
    }
    assert outputs(planned(["music/b.wav"], format="stem")[0]) == {"mix": "out/b.stem.mp4"}
    several = planned(["music/b.wav"], samples=2, uncertainty=True, report=True, format="flac")[0]
    assert outputs(several) == {
        "sample-1/vocals": "out/b/sample-1/vocals.flac",
        "sample-1/rest": "out/b/sample-1/rest.flac",
        "sample-2/vocals": "out/b/sample-2/vocals.flac",
        "sample-2/rest": "out/b/sample-2/rest.flac",
        "uncertainty": "out/b/uncertainty.npz",
        "picture": "out/b/uncertainty.png",
        "report": "out/b/report.html",
    }


@pytest.mark.parametrize(
    ("pattern", "beside"),
    [
        ("{track}-{stem}.{ext}", "out/b.report.html"),
        ("{stem}/{track}.{ext}", "out/b.report.html"),
        ("{parent}/{track} ({priors})/{stem}.{ext}", "out/music/b (me)/report.html"),
    ],
)
def test_the_page_lies_beside_the_stems_and_is_one_for_each_track(pattern, beside, music):
    jobs = planned(["music/b.wav", "music/a.FLAC"], "me", pattern=pattern, report=True)
    assert outputs(jobs[0])["report"] == beside
    assert jobs[0].extras != jobs[1].extras


def test_two_tracks_in_one_place(music):
    (music / "b.mp3").touch()
    (music / "sub/b.wav").touch()
    with pytest.raises(DeepsepError, match=r"b\.wav and music/b\.mp3 would both .* different --out"):
        planned(["music/b.wav", "music/b.mp3"])
    with pytest.raises(DeepsepError, match=r'"\{parent\}/\{track\}/\{stem\}\.\{ext\}"'):
        planned(["music/b.wav", "music/sub/b.wav"])
    assert len(planned(["music/b.wav", "music/sub/b.wav"], pattern="{parent}/{track}/{stem}.{ext}")) == 2
    with pytest.raises(DeepsepError, match=r"put \{track\} in"):
        planned(["music/b.wav", "music/a.FLAC"], pattern="{stem}.{ext}")


def test_samples_need_their_key(music):
    with pytest.raises(DeepsepError, match=r"needs \{sample\}"):
        planned(["music/b.wav"], samples=2, pattern="{track}/{stem}.{ext}")


def test_only_tracks_that_are_complete_are_skipped(music):
    for job in planned(["music/b.wav"]):
        for path in job.paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    jobs = planned(["music/b.wav", "music/a.FLAC"], skip=True)
    assert [job.source.name for job in jobs] == ["a.FLAC"]
    with pytest.raises(DeepsepError, match="though other outputs of this track do not"):
        planned(["music/b.wav"], skip=True, report=True)


def test_planning_creates_nothing(music):
    planned(["music/b.wav"], report=True, uncertainty=True)
    assert not Path("out").exists()


def test_what_the_outputs_sum():
    sources = ["vocals", "drums", "bass"]
    assert tracks.output_stems(sources) == {s: [s] for s in sources}
    assert list(tracks.output_stems(sources, ["bass", "vocals"])) == ["vocals", "bass"]
    assert tracks.output_stems(sources, two_stems="drums") == {
        "drums": ["drums"],
        "no_drums": ["vocals", "bass"],
    }
    with pytest.raises(DeepsepError, match="no other source"):
        tracks.output_stems(["flute"], two_stems="flute")


# --- the map of uncertainty


@pytest.mark.parametrize("method", ["encoder", "sgld"])
def test_the_spread_is_that_of_the_samples(method, model):
    spectrum = Spectrum(model.spectrum)
    song = torch.randn(2, 40 * spectrum.hop, generator=torch.Generator().manual_seed(0))
    windows = list(chunks.windows([spectrum.analyse(song)], 64, 32))
    settings = Settings(
        method=method, samples=inference.ENCODER_DRAWS,
        sgld=SgldConfig(levels=1, steps=2, average=1, temperature=1.0),
    )  # fmt: skip
    groups = [[2], [0, 1]]
    planes = inference.estimates_of(windows, model, spectrum, settings, groups, spread=True)
    samples, spread = planes[:, :-2].unflatten(1, (-1, 2)), planes[:, -2:]
    assert samples.shape[1] == settings.samples
    torch.testing.assert_close(samples.sum(2), torch.ones_like(samples[:, :, 0]))
    torch.testing.assert_close(spread, samples.std(1, correction=0), atol=1e-3, rtol=0)
    assert spread.max() > 0.01


@given(st.integers(1, 30000), st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(1, 60))
def test_a_column_holds_the_mean_variance_of_its_frames(samples, pieces, columns):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uncertainty, "COLUMNS", columns)
        found = uncertainty.SpreadMap(SMALL, SMALL.rate, samples, ["a", "b"])
    frames = Spectrum(SMALL).frames(samples)
    std = torch.rand(2, Spectrum(SMALL).bands, frames, generator=torch.Generator().manual_seed(samples))
    at, turn = 0, 0
    while at < frames + 5:  # a stream may end with frames of silence beyond the track
        n = pieces[turn % len(pieces)]
        found.hear(torch.nn.functional.pad(std, (0, 100))[..., at : at + n])
        at, turn = at + n, turn + 1
    result = found.result()
    assert result.std_kdn.shape == (2, len(result.band_hz), min(columns, frames)) == (
        *result.std_kdn.shape[:2], len(result.time_s),
    )  # fmt: skip
    column = np.arange(frames) * min(columns, frames) // frames
    for c in {0, len(result.time_s) // 2, len(result.time_s) - 1}:
        expected = std[..., column == c].square().mean(-1).sqrt()
        np.testing.assert_allclose(result.std_kdn[..., c], expected, atol=1e-5)


def test_the_axes_of_the_map_say_where_a_tone_is(tmp_path):
    spectrum = Spectrum(SMALL, 12000)
    samples, at_s, tone_hz = 12000, 0.6, 2000
    wave = np.zeros(samples, np.float32)
    start = round(at_s * 12000)
    length = spectrum.n_fft
    wave[start : start + length] = np.sin(2 * np.pi * tone_hz * np.arange(length) / 12000)
    power = spectrum.band_power(spectrum.analyse(torch.from_numpy(wave)[None]).abs().square())
    found = uncertainty.SpreadMap(SMALL, 12000, samples, ["tone"])
    found.hear(power)
    result = found.result()
    band, column = np.unravel_index(result.std_kdn[0].argmax(), result.std_kdn[0].shape)
    assert result.time_s[column] == pytest.approx(at_s + length / 2 / 12000, abs=spectrum.hop / 12000)
    assert result.band_hz[band] == pytest.approx(tone_hz, rel=0.08)
    assert result.band_hz[-1] <= 6000
    uncertainty.save(tmp_path / "u.npz", result)
    saved = np.load(tmp_path / "u.npz")
    assert list(saved["stems"]) == ["tone"]
    np.testing.assert_array_equal(saved["std"], result.std_kdn)


def test_a_picture_of_awkward_names(tmp_path):
    found = uncertainty.SpreadMap(SMALL, 16000, 1, ["a_b", "c"]).result()
    uncertainty.draw(tmp_path / "u.png", found, "100 $ for \udcff $x_")
    assert (tmp_path / "u.png").read_bytes().startswith(b"\x89PNG")


def test_a_pattern_cannot_name_a_file_after_another_format(tmp_path):
    song = tmp_path / "song.wav"
    song.write_bytes(b"")
    output = tracks.Output(folder=tmp_path, stems={"vocals": ["vocals"]}, pattern="{stem}.mp3", format="wav")
    with pytest.raises(DeepsepError, match="would hold wav"):
        tracks.plan([tracks.Input(song, "song")], output)

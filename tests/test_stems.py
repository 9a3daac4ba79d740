"""Stems are written all or none, and at one common gain."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf

from deepsep.audio import files as audio
from deepsep.errors import DeepsepError
from deepsep.output import stems
from deepsep.output.stems import Encoding, StemWriter, check_format
from deepsep.output.writer import CheckedFile

RATE = 44100
NAMES = ["vocals", "drums", "bass", "other"]


def music(frames=30011, channels=2, peak=0.4, seed=0):
    noise = np.random.default_rng(seed).standard_normal((4, channels, frames))
    soft = np.apply_along_axis(lambda x: np.convolve(x, np.hanning(15), "same"), 2, noise)
    soft[3] = 0  # one stem is silent
    return (peak * soft / np.abs(soft).max()).astype(np.float32)


def write(folder, samples, blocks=7, ext="wav", rate=RATE, frames=None, **encoding):
    paths = {name: folder / f"{name}.{ext}" for name in NAMES}
    with StemWriter(paths, rate, samples.shape[1], Encoding(**encoding), frames=frames) as writer:
        for block in np.array_split(samples, blocks, axis=2):
            writer.write(block)
    return paths, writer


def read(paths):
    return np.stack([audio.read(path)[0] for path in paths.values()])


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_float_wav_keeps_every_bit_even_above_full_scale(tmp_path, channels):
    samples = music(channels=channels, peak=1.7)
    paths, writer = write(tmp_path / "new" / "folder", samples)
    np.testing.assert_array_equal(read(paths), samples)
    assert writer.gain_db == 0.0
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == sorted(f"{name}.wav" for name in NAMES)


@pytest.mark.parametrize(
    ("format", "depth", "step"), [("wav", "24", 23), ("wav", "16", 15), ("flac", "24", 23)]
)
@pytest.mark.parametrize("peak", [0.9, 1.6])
def test_integer_formats_share_one_gain_and_sum_to_the_mix(tmp_path, format, depth, step, peak):
    samples = music(peak=peak)
    paths, writer = write(tmp_path, samples, ext=format, format=format, bit_depth=depth)
    gain = min(1.0, 1 / peak)
    assert writer.gain_db == pytest.approx(20 * np.log10(gain), abs=1e-4)
    found = read(paths)
    np.testing.assert_allclose(found, gain * samples, atol=1.01 * 2.0**-step)
    np.testing.assert_allclose(found.sum(0), gain * samples.sum(0), atol=4.04 * 2.0**-step)
    assert not found[3].any()


def test_flac_is_as_deep_as_it_goes_unless_asked(tmp_path):
    paths, _ = write(tmp_path / "a", music(), ext="flac", format="flac")
    assert sf.info(paths["vocals"]).subtype == "PCM_24"
    paths, _ = write(tmp_path / "b", music(), ext="flac", format="flac", bit_depth="16")
    assert sf.info(paths["vocals"]).subtype == "PCM_16"


@pytest.mark.parametrize("format", ["mp3", "ogg"])
@pytest.mark.parametrize("peak", [0.5, 2.0])
def test_lossy_formats_keep_length_levels_and_leave_headroom(tmp_path, format, peak):
    samples = music(3 * RATE, peak=peak)
    paths, writer = write(tmp_path, samples, blocks=1, ext=format, format=format)
    found = read(paths)
    assert found.shape == samples.shape
    gain = 10 ** (writer.gain_db / 20)
    assert gain == pytest.approx(min(1.0, stems.LOSSY_PEAK / peak), rel=1e-4)
    for stem, expected in zip(found[:3], gain * samples[:3], strict=True):
        assert np.square(stem - expected).mean() < 0.1 * np.square(expected).mean()
    assert np.abs(found[3]).max() < 1e-3


def test_mp3_bitrate(tmp_path):
    samples = music(4 * RATE)
    for bitrate in (128, 192, 320):
        paths, _ = write(tmp_path, samples, ext="mp3", format="mp3", bitrate=bitrate)
        assert paths["vocals"].stat().st_size * 8 / 4000 == pytest.approx(bitrate, rel=0.03)


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_an_error_leaves_nothing_behind(tmp_path, format):
    (tmp_path / "kept.txt").write_text("mine")
    paths = {name: tmp_path / "new" / "deep" / f"{name}.{format}" for name in NAMES}
    with pytest.raises(KeyboardInterrupt), StemWriter(paths, RATE, 2, Encoding(format=format)) as writer:
        writer.write(music())
        assert not any(path.exists() for path in paths.values())
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["kept.txt"]


def test_older_stems_stay_until_all_new_ones_are_done(tmp_path):
    old, _ = write(tmp_path, music(seed=1))
    before = read(old)
    with pytest.raises(DeepsepError, match="stem bass came out NaN"), StemWriter(old, RATE, 2) as writer:
        broken = music()
        broken[2, 0, 17] = np.nan
        writer.write(music())
        writer.write(broken)
    np.testing.assert_array_equal(read(old), before)
    assert len(os.listdir(tmp_path)) == 4
    write(tmp_path, music(seed=2))
    np.testing.assert_array_equal(read(old), music(seed=2))


def test_first_rename_waits_for_the_last_conversion(tmp_path, monkeypatch):
    renamed = []
    monkeypatch.setattr(os, "replace", lambda source, target: renamed.append(sf.info(source).frames))
    with StemWriter({n: tmp_path / n for n in NAMES}, RATE, 2, Encoding(format="flac")) as writer:
        writer.write(music())
        assert renamed == []
    assert renamed == [30011] * 4


def test_a_refused_rename_is_named_and_leaves_no_temporaries(tmp_path):
    path = tmp_path / "a.wav"
    with (
        pytest.raises(DeepsepError, match=r"a\.wav: cannot be written"),
        StemWriter({"a": path}, RATE, 2) as out,
    ):
        out.write(music()[:1])
        path.mkdir()  # somebody else takes the name meanwhile
    assert os.listdir(tmp_path) == ["a.wav"]


def test_a_folder_that_is_lost_before_the_start_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DeepsepError, match="cannot be created"):
        StemWriter({"a": tmp_path / "new" / "a.wav", "b": tmp_path / "file" / "b.wav"}, RATE, 2)
    assert os.listdir(tmp_path) == ["file"]


def test_wrong_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match="shape"), StemWriter({"a": tmp_path / "a.wav"}, RATE, 2) as writer:
        writer.write(music())
    assert os.listdir(tmp_path) == []


def test_wav_past_4_gib_is_rf64_or_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(stems, "WAV_BYTES", 30000 * 8)  # as if 30000 stereo float frames were 4 GiB
    paths, _ = write(tmp_path / "a", music(30001), frames=30001)
    assert sf.info(paths["vocals"]).format == "RF64"
    np.testing.assert_array_equal(read(paths), music(30001))
    paths, _ = write(tmp_path / "b", music(30000), frames=30000)
    assert sf.info(paths["vocals"]).format == "WAV"
    with pytest.raises(DeepsepError, match="4 GiB"):
        write(tmp_path / "c", music(30001))
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("format", "rate", "channels", "found"),
    [
        ("mp3", 44100, 6, "not 6"),
        ("mp3", 96000, 2, "96000"),
        ("ogg", 384000, 2, "384000"),
        ("flac", 700000, 2, "700000"),
        ("wav", 44100, 9, "not 9"),
        ("m4a", 44100, 2, "m4a"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_before_any_file(tmp_path, format, rate, channels, found):
    with pytest.raises(DeepsepError, match=found):
        StemWriter({"a": tmp_path / "new" / "a"}, rate, channels, Encoding(format=format))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format", stems.FORMATS)
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (48000, 2), (96000, 2), (44100, 8), (192000, 1)])
def test_what_check_format_lets_through_can_be_written(tmp_path, format, rate, channels):
    try:
        check_format(format, rate, channels)
    except DeepsepError:
        assert format == "mp3" and (channels > 2 or rate > 48000)
        return
    paths, _ = write(tmp_path, music(9000, channels), ext=format, rate=rate, format=format)
    assert read(paths).shape == (4, channels, 9000)


LIMITED = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from deepsep.errors import DeepsepError
from deepsep.output.stems import Encoding, StemWriter

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, format = Path(sys.argv[1]), sys.argv[2]
samples = 0.1 * np.random.default_rng(0).standard_normal((1, 2, 50000), np.float32)
size = None
for lacking in (0, 1, 1000, 4000, 20000):
    path = folder / f"{lacking}.{format}"
    real = StemWriter.convert

    def convert(self, waiting):  # only the files in the final format are limited
        if lacking:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - lacking, resource.RLIM_INFINITY))
        real(self, waiting)

    StemWriter.convert = convert
    try:
        with StemWriter({"a": path}, 44100, 2, Encoding(format=format)) as writer:
            writer.write(samples)
    except DeepsepError as error:
        print(lacking, error)
    StemWriter.convert = real
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    size = size or path.stat().st_size
"""


@pytest.mark.slow
@pytest.mark.parametrize("format", ["flac", "mp3", "ogg"])
def test_the_last_bytes_that_a_full_disk_refuses_are_missed(tmp_path, format):
    pytest.importorskip("resource")
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path, format], capture_output=True, text=True, check=True
    )
    told = run.stdout.splitlines()
    assert [line.split()[0] for line in told] == ["1", "1000", "4000", "20000"]
    assert all("writing the stems failed (File too large)" in line for line in told)
    assert "Traceback" not in run.stderr
    assert os.listdir(tmp_path) == [f"0.{format}"]


@pytest.mark.parametrize("format", stems.FORMATS)
def test_no_interrupt_is_lost_inside_of_libsndfile(tmp_path, format, monkeypatch):
    real = CheckedFile.write

    def interrupted(self, data):
        signal.raise_signal(signal.SIGINT)
        return real(self, data)

    monkeypatch.setattr(CheckedFile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "new", music(), ext=format, format=format)
    assert os.listdir(tmp_path) == []

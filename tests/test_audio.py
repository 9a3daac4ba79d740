"""A file comes out as the samples that went in, on every pass; a bad file is named, not guessed at."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf

from deepsep.audio import files as audio
from deepsep.errors import DeepsepError, MissingExtra

RATE = 44100

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def chirp(frames=RATE + 123, channels=2, rate=RATE):
    t = np.arange(frames) / rate
    return np.stack([0.4 * np.sin(2 * np.pi * (150 + 90 * c + 400 * t) * t) for c in range(channels)]).astype(
        np.float32
    )


def save(path, samples, rate=RATE, **settings):
    sf.write(path, samples.T, rate, **settings)
    return path


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True)


def lag(found, expected):
    size = 1 << 18
    spectrum = np.fft.rfft(found[0], size) * np.conj(np.fft.rfft(expected[0], size))
    peak = int(np.fft.irfft(spectrum, size).argmax())
    return peak if peak < size // 2 else peak - size


def without(monkeypatch, *decoders):
    if "pyav" in decoders:
        monkeypatch.setitem(sys.modules, "av", None)
    if "ffmpeg" in decoders:
        monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_float_wav_is_exact(tmp_path, channels):
    samples = chirp(channels=channels)
    path = save(tmp_path / "a.wav", samples, subtype="FLOAT")
    found, rate = audio.read(path)
    assert rate == RATE and found.dtype == np.float32
    np.testing.assert_array_equal(found, samples)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "aiff", "w64", "caf"])
def test_blocks_join_to_the_same_samples_for_any_size_and_on_every_pass(tmp_path, suffix):
    samples = chirp()
    path = save(tmp_path / f"a.{suffix}", samples)
    info = audio.probe(path)
    assert (info.rate, info.channels, info.frames, info.decoder) == (RATE, 2, samples.shape[1], "soundfile")
    first = list(audio.read_blocks(path, 7001))
    assert {block.shape[1] for block in first[:-1]} == {7001} and 0 < first[-1].shape[1] <= 7001
    for again, block in zip(audio.read_blocks(path, 7001), first, strict=True):
        np.testing.assert_array_equal(again, block)
    whole = np.concatenate(first, axis=1)
    np.testing.assert_array_equal(whole, audio.read(path)[0])
    assert whole.shape == samples.shape
    assert lag(whole, samples) == 0


@needs_ffmpeg
@pytest.mark.parametrize("decoder", ["pyav", "ffmpeg"])
def test_m4a_has_no_lag_and_its_container_length(tmp_path, monkeypatch, decoder):
    if decoder == "pyav":
        pytest.importorskip("av")
    else:
        without(monkeypatch, "pyav")
    samples = chirp()
    wav = save(tmp_path / "a.wav", samples, subtype="FLOAT")
    ffmpeg("-i", wav, "-b:a", "192k", tmp_path / "a.m4a")
    ffmpeg("-i", wav, "-c:a", "alac", tmp_path / "b.m4a")
    info = audio.probe(tmp_path / "a.m4a")
    found = np.concatenate(list(audio.read_blocks(tmp_path / "a.m4a", 5000)), axis=1)
    assert info.decoder == decoder and found.shape == (2, info.frames)
    assert abs(info.frames - samples.shape[1]) < 50  # the edit list counts milliseconds
    assert lag(found, samples) == 0
    lossless, _ = audio.read(tmp_path / "b.m4a")
    assert lossless.shape == samples.shape
    assert np.abs(lossless - samples).max() < 2**-15


@needs_ffmpeg
@pytest.mark.parametrize("suffix", ["wma", "webm", "aac"])
def test_pyav_and_ffmpeg_agree(tmp_path, monkeypatch, suffix):
    pytest.importorskip("av")
    path = tmp_path / f"a.{suffix}"
    ffmpeg("-i", save(tmp_path / "a.wav", chirp()), path)
    one, rate = audio.read(path)
    without(monkeypatch, "pyav")
    two, rate_too = audio.read(path)
    assert audio.probe(path).decoder == "ffmpeg" and rate == rate_too
    shared = min(one.shape[1], two.shape[1])
    assert shared > 0.9 * RATE and lag(one, two) == 0
    assert np.abs(one[:, :shared] - two[:, :shared]).max() < 1e-3


@needs_ffmpeg
def test_first_audio_stream_is_read(tmp_path):
    mix = save(tmp_path / "mix.wav", chirp())
    silent = save(tmp_path / "silent.wav", 0 * chirp())
    path = tmp_path / "a.stem.mp4"
    ffmpeg("-i", mix, "-i", silent, "-map", "0:a", "-map", "1:a", "-c:a", "alac", path)
    assert np.abs(audio.read(path)[0]).max() > 0.3


@needs_ffmpeg
@pytest.mark.parametrize("settings", [["-q:a", "5"], ["-b:a", "128k"]])
def test_mp3_without_length_header_is_not_truncated(tmp_path, settings):
    # Silence, then noise: a length guessed from the first bit rate would be far off.
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (2, 6 * RATE)).astype(np.float32)
    noise[:, : 2 * RATE] = 0
    path = tmp_path / "a.mp3"
    ffmpeg("-i", save(tmp_path / "a.wav", noise), *settings, "-write_xing", "0", path)
    found, _ = audio.read(path)
    assert abs(found.shape[1] - noise.shape[1]) < 5000


@needs_ffmpeg
def test_mp3_without_length_header_and_without_help_is_whole_or_refused(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (2, 6 * RATE)).astype(np.float32)
    wav = save(tmp_path / "a.wav", noise)
    ffmpeg("-i", wav, "-b:a", "128k", "-write_xing", "0", tmp_path / "constant.mp3")
    ffmpeg("-i", wav, "-b:a", "320k", "-write_xing", "0", tmp_path / "high.mp3")
    joined = tmp_path / "joined.mp3"  # starts at a high rate, so its length is guessed too short
    joined.write_bytes((tmp_path / "high.mp3").read_bytes() + (tmp_path / "constant.mp3").read_bytes())
    without(monkeypatch, "pyav", "ffmpeg")
    assert abs(audio.read(tmp_path / "constant.mp3")[0].shape[1] - noise.shape[1]) < 5000
    with pytest.raises(MissingExtra, match="length"):
        audio.read(joined)


@needs_ffmpeg
def test_flac_from_a_pipe_keeps_its_end(tmp_path):
    samples = chirp()
    wav = save(tmp_path / "a.wav", samples, subtype="PCM_16")
    data = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", wav, "-f", "flac", "-"], check=True, capture_output=True
    )
    (tmp_path / "a.flac").write_bytes(data.stdout)
    np.testing.assert_array_equal(audio.read(tmp_path / "a.flac")[0], audio.read(wav)[0])


def test_missing_decoder_names_format_and_remedy(tmp_path, monkeypatch):
    path = tmp_path / "song.m4a"
    path.write_bytes(b"\0\0\0\x1cftypM4A " + bytes(100))
    without(monkeypatch, "pyav", "ffmpeg")
    with pytest.raises(MissingExtra, match=r"song\.m4a.*m4a.*pipx inject deepsep av.*ffmpeg"):
        audio.probe(path)


def make_bad(folder, case):
    path = folder / f"{case}.wav"
    if case == "folder":
        path.mkdir()
    elif case == "empty":
        path.write_bytes(b"")
    elif case == "no_samples":
        save(path, chirp(0))
    elif case == "text":
        path = folder / "text.mp3"
        path.write_text("this is not music\n" * 200)
    elif case == "text_m4a":
        path = folder / "text.m4a"
        path.write_text("this is not music\n" * 200)
    elif case == "cut_flac":
        path = save(folder / "cut.flac", chirp(5 * RATE))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif case == "cut_mp3":
        path = save(folder / "cut.mp3", chirp(5 * RATE))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif case == "nine_channels":
        save(path, chirp(100, channels=9))
    return path


@pytest.mark.parametrize(
    ("case", "found"),
    [
        ("missing", "no such file"),
        ("folder", "is a folder"),
        ("empty", "0 bytes"),
        ("no_samples", "no audio samples"),
        ("text", "no audio found in this mp3"),
        ("text_m4a", "no audio found in this m4a"),
        ("cut_flac", "cut short or damaged"),
        ("cut_mp3", "cut short or damaged"),
        ("nine_channels", "9 channels"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path, case, found):
    path = make_bad(tmp_path, case)
    with pytest.raises(DeepsepError, match=found) as caught:
        audio.read(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_position_of_a_sample_that_is_no_number(tmp_path, value):
    samples = chirp(2 * RATE)
    samples[1, 66150] = value
    blocks = audio.read_blocks(save(tmp_path / "a.wav", samples, subtype="FLOAT"), 10000)
    for _ in range(6):
        next(blocks)  # the blocks before it are good
    with pytest.raises(DeepsepError, match=r"1\.500 s"):
        next(blocks)


@needs_ffmpeg
def test_cut_m4a_is_refused(tmp_path):
    path = tmp_path / "a.m4a"
    ffmpeg("-i", save(tmp_path / "a.wav", chirp(5 * RATE)), "-movflags", "+faststart", path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(DeepsepError, match="cut short"):
        audio.read(path)


def test_silence_is_music_too(tmp_path):
    path = save(tmp_path / "a.flac", 0 * chirp())
    assert not audio.read(path)[0].any()


@pytest.mark.parametrize(
    ("name", "track"),
    [("a.b.mp3", "a.b"), ("song.stem.mp4", "song"), ("Song.WAV", "Song"), ("v1.2", "v1.2"), (".wav", ".wav")],
)
def test_track_name(tmp_path, name, track):
    assert audio.track_name(tmp_path / name) == track

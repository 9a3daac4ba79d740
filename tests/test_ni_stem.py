"""A stem file holds the mix and four stems of one length, plays as they sounded, and names them."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf

from deepsep.audio import files as audio
from deepsep.audio.tags import Tags, read_tags, write_tags
from deepsep.errors import DeepsepError, MissingExtra
from deepsep.output import ni_stem
from deepsep.output.mp4 import read_manifest
from deepsep.output.ni_stem import Encoding, NiStemWriter

RATE = 44100
NAMES = ["vocals", "drums", "bass", "other"]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


@pytest.fixture(params=["pyav", "ffmpeg"])
def encoder(request, monkeypatch):
    if request.param == "pyav":
        pytest.importorskip("av")
    else:
        if shutil.which("ffmpeg") is None:
            pytest.skip("ffmpeg is not installed")
        monkeypatch.setitem(sys.modules, "av", None)
    return request.param


def music(frames=RATE + 321, channels=2, rate=RATE, peak=0.2):
    t = np.arange(frames) / rate
    tones = [
        [np.sin(2 * np.pi * (110 * (k + 1) + 7 * c + 300 * t) * t) for c in range(channels)] for k in range(4)
    ]
    return (peak * np.array(tones)).astype(np.float32)


def write(path, samples, stems=NAMES, rate=RATE, **encoding):
    with NiStemWriter(path, stems, rate, samples.shape[1], Encoding(**encoding)) as writer:
        for block in np.array_split(samples, 5, axis=2):
            writer.write(block)
    return writer


def streams(path):
    shown = "stream=codec_name,codec_type,channels,sample_rate,duration_ts,bits_per_raw_sample"
    command = [
        "ffprobe",
        "-v",
        "error",
        "-show_entries",
        f"{shown}:stream_disposition=default",
        "-of",
        "json",
    ]
    found = json.loads(subprocess.run([*command, path], check=True, capture_output=True).stdout)["streams"]
    return [stream for stream in found if stream["codec_type"] == "audio"]


def decode(path):
    import stempeg

    found, rate = stempeg.read_stems(str(path))
    return found.transpose(0, 2, 1), rate


def assert_close(found, expected):
    """Within what a codec loses, and far from what a lag, a swap or a wrong gain would make."""
    error = np.square(found - expected).mean(axis=-1)
    assert (error < 0.01 * np.square(expected).mean(axis=-1)).all()


def tracks_enabled(path):
    """Bit 0 of each tkhd's flags: whether players that know nothing of stems play that track."""
    data = path.read_bytes()
    at, found = 0, []
    while (at := data.find(b"tkhd", at) + 1) > 0:
        found.append(data[at + 6] & 1)
    return found


@needs_ffmpeg
@pytest.mark.parametrize("codec", ["aac", "alac"])
def test_written_file_reads_back(tmp_path, encoder, codec):
    samples = music()
    path = tmp_path / "new" / "song.stem.mp4"
    assert write(path, samples, codec=codec).gain_db == 0.0
    assert os.listdir(path.parent) == ["song.stem.mp4"]

    found = streams(path)
    assert [stream["disposition"]["default"] for stream in found] == [1, 0, 0, 0, 0]
    assert tracks_enabled(path) == [1, 0, 0, 0, 0]
    assert {(s["codec_name"], s["channels"], s["sample_rate"]) for s in found} == {(codec, 2, "44100")}
    assert len({stream["duration_ts"] for stream in found}) == 1
    assert path.read_bytes()[4:12] == b"ftypM4A "

    read, rate = decode(path)
    assert rate == RATE and read.shape[:2] == (5, 2)
    expected = samples[[1, 2, 3, 0]]  # the order that players show: drums, bass, other, vocals
    expected = np.concatenate([expected.sum(0)[None], expected])
    if codec == "alac":
        assert {stream["bits_per_raw_sample"] for stream in found} == {"24"}
        assert read.shape == expected.shape
        np.testing.assert_allclose(read, expected, atol=2**-23)
    else:
        assert 0 <= read.shape[2] - expected.shape[2] < 1024
        assert_close(read[:, :, : expected.shape[2]], expected)

    manifest = read_manifest(path)
    assert manifest["version"] == 1
    assert [(stem["name"], stem["color"]) for stem in manifest["stems"]] == [
        ("Drums", "#009E73"),
        ("Bass", "#D55E00"),
        ("Other", "#CC79A7"),
        ("Vocals", "#56B4E9"),
    ]
    assert not any(effect["enabled"] for effect in manifest["mastering_dsp"].values())
    mix, _ = audio.read(path)
    assert mix.shape == expected[0].shape  # the padding of the codec is cut off again
    assert_close(mix, expected[0])


@needs_ffmpeg
def test_tags_and_cover_survive_the_stem_box(tmp_path, encoder):
    pytest.importorskip("mutagen")
    path = tmp_path / "song.stem.mp4"
    tags = Tags(
        fields={"title": "Räv", "artist": "B", "tracknumber": "2/7"}, cover=PNG, cover_mime="image/png"
    )
    write(path, music(9000), tags=tags)
    found = read_tags(path)
    assert found.fields.items() >= tags.fields.items() and found.cover == PNG
    assert len(read_manifest(path)["stems"]) == 4 and len(streams(path)) == 5
    assert write_tags(path, Tags(fields={"title": "new"}))  # a tag editor comes later
    assert len(read_manifest(path)["stems"]) == 4 and read_tags(path).fields["title"] == "new"
    assert decode(path)[0].shape[0] == 5


TITLES = ["A\0B", "A\nB\r\n\tC", "\x01\x1b[2J\x7f", "\u2028\ufffe", "=;#\\", 60_000 * "\N{GUITAR}"]


@needs_ffmpeg
@pytest.mark.parametrize("title", TITLES, ids=["NUL", "line ends", "controls", "separators", "marks", "long"])
def test_any_title_is_kept(title, tmp_path, encoder):
    """A command line takes no NUL, and no word of 128 kB."""
    pytest.importorskip("mutagen")
    path = tmp_path / "song.stem.mp4"
    told = write(
        path, music(9000), tags=Tags(fields={"title": title, "artist": "B"}), comment="who made it"
    ).notes
    assert told == [] and read_tags(path).fields == {"title": title, "artist": "B"}
    assert mutagen_comment(path) == ["who made it"] and len(read_manifest(path)["stems"]) == 4


def mutagen_comment(path):
    return pytest.importorskip("mutagen").File(path).tags["\xa9cmt"]


@needs_ffmpeg
def test_other_stems_keep_their_order_and_take_the_colour_of_their_place(tmp_path):
    path = tmp_path / "song.stem.mp4"
    stems = ["piano", "vocals", "hiss", "rest"]
    write(path, music(9000), stems)
    shown = [(stem["name"], stem["color"]) for stem in read_manifest(path)["stems"]]
    assert shown == [
        ("Piano", "#009E73"),
        ("Vocals", "#56B4E9"),
        ("Hiss", "#CC79A7"),
        ("Rest", "#56B4E9"),
    ]


@needs_ffmpeg
@pytest.mark.parametrize("codec", ["aac", "alac"])
def test_one_gain_for_the_mix_and_all_stems(tmp_path, encoder, codec):
    samples = music(peak=0.6)  # no stem clips, the mix would
    path = tmp_path / "song.stem.mp4"
    writer = write(path, samples, codec=codec)
    ceiling = 0.95 if codec == "aac" else 1.0
    gain = ceiling / np.abs(samples.sum(0)).max()
    assert writer.gain_db == pytest.approx(20 * np.log10(gain), abs=1e-3)
    assert writer.gain_db < -1
    read = decode(path)[0][:, :, : samples.shape[2]]
    assert_close(read[4], gain * samples[0])
    assert_close(read[1:].sum(0), read[0])
    if codec == "alac":
        np.testing.assert_allclose(read[1:].sum(0), read[0], atol=5 * 2**-23)
    else:  # not even the loudest moments of the mix alone are turned down
        loud = np.abs(samples.sum(0)) * gain > 0.9
        assert abs(np.abs(read[0][loud]).mean() / (gain * np.abs(samples.sum(0)[loud]).mean()) - 1) < 0.01


@needs_ffmpeg
def test_mono_is_doubled_and_odd_rates_become_44100(tmp_path):
    path = tmp_path / "song.stem.mp4"
    write(path, music(32000, channels=1, rate=32000), rate=32000, codec="alac")
    read, rate = decode(path)
    assert (rate, read.shape) == (44100, (5, 2, 44100))
    np.testing.assert_array_equal(read[:, 0], read[:, 1])
    inside = slice(5000, 40000)
    np.testing.assert_allclose(read[4, 0, inside], music(44100, 1)[0, 0, inside], atol=1e-3)


@needs_ffmpeg
def test_48_khz_is_kept(tmp_path):
    path = tmp_path / "song.stem.mp4"
    write(path, music(9000, rate=48000), rate=48000)
    assert {stream["sample_rate"] for stream in streams(path)} == {"48000"}


@pytest.mark.parametrize(
    ("names", "channels", "codec", "found"),
    [
        (["vocals", "rest"], 2, "aac", "exactly 4 stems, not 2"),
        ([*NAMES, "piano"], 2, "aac", "exactly 4 stems, not 5"),
        (NAMES, 6, "aac", "6 channels"),
        (NAMES, 2, "opus", "opus"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_file(tmp_path, names, channels, codec, found):
    with pytest.raises(DeepsepError, match=found):
        NiStemWriter(tmp_path / "new" / "a.stem.mp4", names, RATE, channels, Encoding(codec=codec))
    assert os.listdir(tmp_path) == []


def test_without_an_encoder_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pipx inject deepsep av.*ffmpeg"):
        NiStemWriter(tmp_path / "a.stem.mp4", NAMES, RATE, 2)


def test_an_error_leaves_nothing_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt), NiStemWriter(tmp_path / "new" / "a", NAMES, RATE, 2) as writer:
        writer.write(music(9000))
        raise KeyboardInterrupt
    with pytest.raises(DeepsepError, match="no audio samples"), NiStemWriter(tmp_path / "b", NAMES, RATE, 2):
        pass
    assert os.listdir(tmp_path) == []


def test_parts_of_unequal_length_are_refused(tmp_path):
    samples = music(9000)
    paths = {}
    for index, name in enumerate(NAMES):
        paths[name] = tmp_path / f"{name}.wav"
        sf.write(paths[name], samples[index, :, : 9000 - (name == "bass")].T, RATE, subtype="FLOAT")
    mix = tmp_path / "mix.wav"
    sf.write(mix, samples.sum(0).T, RATE, subtype="FLOAT")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(DeepsepError, match="8999, 9000"):
        ni_stem.write(tmp_path / "a.stem.mp4", mix, paths, Encoding())
    assert sorted(os.listdir(tmp_path)) == before

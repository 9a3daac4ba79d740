"""Tags and covers survive the way from one format to another, and the samples beside them."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf

from deepsep.audio import files as audio
from deepsep.audio.tags import Tags, read_tags, write_tags

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
NOISE = 0.1 * np.random.default_rng(0).standard_normal((5000, 2))


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("suffix", ["flac", "mp3", "ogg", "opus", "wav", "m4a"])
def test_tags_round_trip(tmp_path, suffix):
    pytest.importorskip("mutagen")
    path = tmp_path / f"a.{suffix}"
    sf.write(tmp_path / "source.wav", NOISE, 44100)
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "source.wav", path], check=True)
    before = audio.read(path)[0]
    tags = Tags(
        fields={"title": "Kärnan", "artist": "A; B", "album": "C", "date": "1999", "tracknumber": "3/9"},
        cover=PNG,
        cover_mime="image/png",
    )
    assert write_tags(path, tags)
    found = read_tags(path)
    assert found.fields.items() >= tags.fields.items()
    assert (found.cover, found.cover_mime) == (PNG, "image/png")
    np.testing.assert_array_equal(audio.read(path)[0], before)


def test_tags_without_mutagen_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mutagen", None)
    path = tmp_path / "a.flac"
    sf.write(path, NOISE, 44100)
    before = path.read_bytes()
    assert read_tags(path) == Tags()
    assert not write_tags(path, Tags(fields={"title": "x"}))
    assert path.read_bytes() == before


def test_a_wav_past_4_gib_has_no_tags_and_is_kept(tmp_path):
    pytest.importorskip("mutagen")
    sf.write(tmp_path / "a.wav", NOISE, 44100, format="RF64")
    assert not write_tags(tmp_path / "a.wav", Tags(fields={"title": "x"}))

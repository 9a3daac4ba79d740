"""What a format or an encoder cannot hold is left out and said; the separation is kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from cli_fixtures import FOUR, RATE, noise, program, read, record, tree
from processes import PATIENCE

from deepsep.audio import tags
from deepsep.audio.tags import Tags, read_tags, write_tags, write_what_fits
from deepsep.errors import DeepsepError

BIG = b"\x89PNG\r\n\x1a\n" + bytes(17_000_000)


@pytest.fixture
def song(deepsep):
    """A song with a title and a cover of 17 MB."""
    pytest.importorskip("mutagen")
    record(Path("song.mp3"), noise(0.5, rate=44100), 44100)
    write_tags("song.mp3", Tags(fields={"title": "Blå"}, cover=BIG))
    return Path("song.mp3")


@pytest.mark.parametrize("format", ["flac", "ogg", "mp3", "wav"])
def test_a_cover_that_does_not_fit_is_left_out_and_said(format, song, deepsep, priors):
    words = ("separate", "--priors", priors, song, "-f", format, "-o", "out")
    code, _, err = deepsep(*words)
    assert code == 0 and err.count("\n") == 1
    fits = format in ("mp3", "wav")
    assert (f"the cover (17.0 MB) does not fit into {format} and is left out" in err) is not fits
    assert tree(Path("out")) == sorted(f"song/{source}.{format}" for source in FOUR)
    found = read_tags(f"out/song/vocals.{format}")
    assert found.fields["title"] == "Blå"
    assert found.cover == (BIG if fits else None)
    told = json.loads(deepsep.good(*words, "--overwrite", "--json"))
    assert len(told["done"][0]["notes"]) == (0 if fits else 1)


def test_tags_that_do_not_fit_cost_themselves_alone(tmp_path, monkeypatch):
    pytest.importorskip("mutagen")
    path = tmp_path / "a.flac"
    sf.write(path, noise(), RATE)
    before = path.read_bytes()

    def refuse(file, name, text):
        raise ValueError("a field that this format has no room for")

    monkeypatch.setattr(tags, "write_vorbis_field", refuse)
    given = Tags(fields={"title": "x"}, cover=b"\x89PNG" + bytes(9))
    assert write_what_fits(path, given, "flac") == "the tags do not fit into flac and are left out"
    assert path.read_bytes() == before


def test_a_full_disk_is_no_tag_that_does_not_fit(tmp_path, monkeypatch):
    mutagen = pytest.importorskip("mutagen")
    sf.write(tmp_path / "a.flac", noise(), RATE)

    def full(*args, **more):
        raise mutagen.MutagenError(OSError(28, "No space left on device"))

    monkeypatch.setattr("mutagen.flac.FLAC.save", full)
    with pytest.raises(DeepsepError, match="is the disk full"):
        write_what_fits(tmp_path / "a.flac", Tags(fields={"title": "x"}), "flac")


@pytest.mark.slow
@pytest.mark.parametrize("peak", [20, 4e5, 1e10, 1e30])
def test_samples_far_beyond_full_scale_leave_the_rest_of_an_album_alone(peak, priors, tmp_path):
    """In a process of its own: an encoder that gives up ends its process."""
    loud = record(
        tmp_path / "album" / "1 loud.wav", (noise() / np.abs(noise()).max() * peak).astype(np.float32)
    )
    record(tmp_path / "album" / "2 usual.wav")
    words = ("separate", "--priors", priors, "album", "-o", "out", "--report", "--method", "encoder")
    with (tmp_path / "err").open("w") as err:
        assert program(*words, cwd=tmp_path, stderr=err).wait(timeout=PATIENCE) == 0
    lines = (tmp_path / "err").read_text().splitlines()
    assert len(lines) == 3, lines
    assert "clipped at 24 dB above full scale" in lines[0] and "clipped" not in lines[1]
    for name in ("1 loud", "2 usual"):
        names = [*(f"{s}.wav" for s in FOUR), "report.html"]
        assert tree(tmp_path / "out" / name) == sorted(names)
    total = sum(read(tmp_path / "out/1 loud" / f"{source}.wav") for source in FOUR)
    np.testing.assert_allclose(total, read(loud), rtol=1e-4, atol=1e-4 * peak)

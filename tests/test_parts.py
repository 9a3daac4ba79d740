"""A part of a song, and the sound of a film: stems of just that, decoded no further than they must be."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from cli_fixtures import FOUR, RATE, noise, read, record, tree

from deepsep.audio import files as audio
from deepsep.audio.decoders import ffmpeg, libsndfile, pyav
from deepsep.audio.info import Part
from deepsep.audio.tags import Tags, read_tags, write_tags
from deepsep.errors import DeepsepError, MissingExtra

FFMPEG = pytest.mark.skipif(not ffmpeg.is_installed(), reason="ffmpeg is not installed")
FILM = {
    "film.mp4": "-c:v mpeg4 -c:a aac",
    "film.mkv": "-c:v mpeg4 -c:a ac3",
    "film.mov": "-c:v mpeg4 -c:a pcm_s16le",
    "film.webm": "-c:v libvpx -deadline realtime -cpu-used 8 -c:a libvorbis",
    "song.wv": "-vn -c:a wavpack",
}


def make(name: str, source: Path, how: str | None = None, *more: str) -> Path:
    """A film of a test card with the sound of `source`, by the ffmpeg program."""
    card = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=5:d=2"]
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-y",
        *card,
        "-i",
        str(source),
        *(how or FILM[name]).split(),
        *more,
        name,
    ]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return Path(name)


@pytest.fixture
def separate(deepsep, priors):
    return lambda *words: deepsep.good("separate", "--priors", priors, *words)


def stems(folder):
    return np.stack([read(Path(folder, f"{source}.wav")) for source in FOUR])


# --- a part


KINDS = [
    ("wav", "FLOAT", 2),
    ("flac", "PCM_16", 2),
    ("aiff", "PCM_24", 2),
    ("mp3", None, 2),
    ("ogg", None, 2),
]
KINDS += [("wav", "MS_ADPCM", 2), ("au", "ULAW", 1), ("au", "G721_32", 1)]


@pytest.mark.parametrize(("ext", "subtype", "channels"), KINDS)
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.71, 1.93), (1.5, None), (1.999, 99.0), (0.5, 0.5)])
def test_a_part_is_what_lies_between_its_ends(ext, subtype, channels, start, end, tmp_path):
    song = record(tmp_path / f"song.{ext}", noise(2, channels), subtype=subtype)
    whole = audio.read(song)[0]
    info = audio.probe(song, Part(start, end))
    first = round(start * RATE)
    stop = whole.shape[1] if end is None else max(first + 1, round(end * RATE))
    expected = whole[:, first:stop]
    assert (info.frames, info.first) == (expected.shape[1], first)
    found = list(audio.read_blocks(song, 1000, Part(start, end)))
    assert all(block.shape[1] == 1000 for block in found[:-1])
    np.testing.assert_array_equal(np.concatenate(found, 1), expected)


@pytest.mark.parametrize("ext", ["wav", "mp3"])
def test_what_comes_after_a_part_is_not_decoded(ext, tmp_path, monkeypatch):
    song = record(tmp_path / f"long.{ext}", noise(100, 1))
    decoded = []

    def counted(sound, _read=libsndfile.read_all):
        for block in _read(sound):
            decoded.append(block.shape[1])
            yield block

    monkeypatch.setattr(libsndfile, "read_all", counted)
    part = Part(40, 41)
    assert sum(block.shape[1] for block in audio.read_blocks(song, part=part)) == RATE
    before = 0 if ext == "wav" else 40 * RATE
    assert before + RATE <= sum(decoded) < before + RATE + 2 * audio.BLOCK_FRAMES


@pytest.mark.parametrize("method", ["encoder", "sgld"])
def test_stems_of_a_part_are_those_of_a_file_cut_there(method, separate):
    song = noise(3)
    write_tags(record(Path("song.flac"), song), Tags(fields={"title": "Song"}))
    record(Path("cut.wav"), read(Path("song.flac"))[round(0.9 * RATE) : round(2.4 * RATE)])
    how = ["--method", method, *(["--levels", "2", "--steps", "2"] if method == "sgld" else [])]
    told = json.loads(
        separate("song.flac", "--start", "0:00.9", "--end", "2.4", "-o", "part", "--json", *how)
    )
    separate("cut.wav", "-o", "whole", *how)
    found = stems("part/song")
    np.testing.assert_array_equal(found, stems("whole/cut"))
    np.testing.assert_allclose(found.sum(0), read(Path("cut.wav")), atol=1e-5)
    assert told["done"][0]["seconds"] == pytest.approx(1.5)
    assert read_tags("part/song/vocals.wav").fields["title"] == "Song"
    with sf.SoundFile("part/song/vocals.wav") as file:
        assert ", 0.9 s to 2.4 s; priors" in file.comment


def test_the_page_of_a_part_plays_that_part(separate):
    record(Path("song.wav"), noise(3))
    separate("song.wav", "--start", "1", "--end", "2", "--report", "-o", "out")
    page = Path("out/song/report.html").read_text()
    tracks = json.loads(page.partition('id="data">')[2].partition("</script>")[0])["tracks"]
    assert len({track["frames"] for track in tracks}) == 1 and len(tracks) == 5


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--start", "5"), 1, "song.wav: its sound of 0.50 s ends before 5.00 s"),
        (("--start", "0:00:30"), 1, "ends before 30.00 s"),
        (("--start", "0.4", "--end", "0.4"), 2, "--end 0.4 is not after --start 0.4"),
        (("--end", "0"), 2, "--end 0 is not after the start"),
        (("--start", "-1"), 2, "--start takes seconds, m:ss or h:mm:ss, got '-1'"),
        (("--end", "1:7"), 2, "--end takes seconds, m:ss or h:mm:ss, got '1:7'"),
        (("--end", "nan"), 2, "--end takes seconds"),
        (("--end", "1:00:00:00"), 2, "--end takes seconds"),
    ],
)
def test_a_part_that_there_is_not(words, code, told, deepsep, priors):
    record(Path("song.wav"))
    result = deepsep("separate", "song.wav", "--priors", priors, "-o", "out", *words)
    assert result[0] == code and told in result[2] and result[2].count("\n") == 1
    assert tree(Path()) == ["song.wav"]


def test_a_folder_of_stem_files_alone(deepsep, priors):
    record(Path("in/song.stem.mp4"), format="WAV")
    _, _, err = deepsep("separate", "in", "--priors", priors, "-o", "out")
    assert err == "error: in: holds stem files only, which are made of songs; name one to separate its mix\n"


# --- films, and what only ffmpeg reads


@pytest.mark.slow
@FFMPEG
@pytest.mark.parametrize("name", FILM)
@pytest.mark.parametrize("decoder", [pyav, ffmpeg])
def test_the_sound_of_a_film_is_separated(name, decoder, separate, monkeypatch):
    if decoder is pyav:
        pytest.importorskip("av")
    else:
        monkeypatch.setattr(pyav, "is_installed", lambda: False)
    song = record(Path("sound.wav"), noise(2, rate=48000), 48000)
    film = make(name, song)
    assert audio.probe(film).decoder == decoder.__name__.rpartition(".")[2]
    sound = audio.read(film)[0].T
    assert abs(len(sound) / 48000 - 2) < 0.1
    separate(film, "-o", "out")
    np.testing.assert_allclose(stems(f"out/{film.stem}").sum(0), sound, atol=1e-5)
    separate(film, "-o", "part", "--start", "0.5", "--end", "1.25")
    np.testing.assert_allclose(stems(f"part/{film.stem}").sum(0), sound[24000:60000], atol=1e-5)


@pytest.mark.slow
@FFMPEG
def test_a_folder_of_films_songs_and_stem_files(deepsep, priors):
    song = record(Path("in/song.wav"), noise(2))
    make("in/film.mkv", song, FILM["film.mkv"])
    make("in/covered.m4a", song, "-c:v mjpeg -c:a aac", "-disposition:v:0", "attached_pic")
    make("in/silent.mp4", song, "-an -c:v mpeg4")
    shutil.copy("in/film.mkv", "in/song.stem.mp4")
    code, _, err = deepsep("separate", "in", "--priors", priors, "-o", "out")
    assert code == 1 and "silent.mp4: no audio found in this mp4 file; it has pictures only" in err
    assert err.endswith("3 done, 1 failed, 0 skipped\n")
    names = ("covered", "film", "song")
    assert tree(Path("out")) == sorted(f"{name}/{stem}.wav" for name in names for stem in FOUR)


@pytest.mark.parametrize("name", ["song.wv", "song.ape", "film.mkv", "film.webm"])
def test_without_a_decoder_a_line_says_what_to_install(name, tmp_path, monkeypatch):
    monkeypatch.setattr(pyav, "is_installed", lambda: False)
    monkeypatch.setattr(ffmpeg, "is_installed", lambda: False)
    (tmp_path / name).write_bytes(b"\x1aE\xdf\xa3" * 100)
    with pytest.raises(MissingExtra, match="needs PyAV or ffmpeg to be read; run `pipx inject deepsep av`"):
        audio.probe(tmp_path / name)


@FFMPEG
def test_a_part_beyond_the_end_of_a_film_that_states_no_length(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film = make("film.mkv", record(Path("sound.wav"), noise(1)))
    with pytest.raises(DeepsepError, match=r"its sound ends before 30\.00 s"):
        list(audio.read_blocks(film, part=Part(30)))

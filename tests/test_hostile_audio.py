"""What a header states is checked against the file before memory or time is spent on it."""

import io
import shutil
import struct
import subprocess
import zlib

import hypothesis.strategies as st
import numpy as np
import pytest
import soundfile as sf
from cli_fixtures import examples, noise, record
from hypothesis import given, settings

from deepsep.audio import files as audio
from deepsep.audio.decoders import ffmpeg, pyav
from deepsep.audio.info import FORMATS
from deepsep.audio.tags import MAX_INFLATED, read_tags, write_what_fits
from deepsep.audio.whole import has_open_end
from deepsep.errors import DeepsepError

RATE = 8000
SOUND = 0.1 * np.random.default_rng(0).standard_normal((2 * RATE, 2))
KINDS = {
    "wav": {},
    "float.wav": {"subtype": "FLOAT"},
    "adpcm.wav": {"subtype": "MS_ADPCM"},
    "rf64": {"format": "RF64"},
    "big.wav": {"endian": "BIG"},
    "aiff": {},
    "w64": {},
    "caf": {},
    "au": {},
    "ogg": {},
    "flac": {},
}


def encoded(kind):
    file = io.BytesIO()
    sf.write(file, SOUND, RATE, **{"format": kind.rpartition(".")[2].upper(), **KINDS[kind]})
    return file.getvalue()


ENCODED = {kind: encoded(kind) for kind in KINDS}


def refused(path):
    with pytest.raises(DeepsepError) as caught:
        audio.read(path)
    told = str(caught.value)
    assert "\n" not in told and str(path) in told
    return told


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_file_is_read(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(ENCODED[kind])
    assert abs(audio.read(path)[0].shape[1] - len(SOUND)) < 300


@settings(max_examples=examples(100))
@given(kind=st.sampled_from(sorted(KINDS)), share=st.floats(0.05, 0.98))
def test_a_file_cut_anywhere_is_one_line(kind, share, tmp_path_factory):
    path = tmp_path_factory.mktemp("cut") / f"a.{kind}"
    path.write_bytes(ENCODED[kind][: int(share * len(ENCODED[kind]))])
    if kind != "ogg" or ENCODED[kind][len(path.read_bytes()) :][:4] != b"OggS":
        refused(path)


def test_an_ogg_cut_between_its_pages_is_said(tmp_path, deepsep, priors):
    record(tmp_path / "long.ogg", noise(5), format="OGG", subtype="VORBIS")
    whole = (tmp_path / "long.ogg").read_bytes()
    (tmp_path / "cut.ogg").write_bytes(whole[: whole.rindex(b"OggS")])
    assert has_open_end(tmp_path / "cut.ogg") and not has_open_end(tmp_path / "long.ogg")
    code, _, err = deepsep("separate", "--priors", priors, "long.ogg", "cut.ogg", "-o", "out")
    assert code == 0
    assert [line.split(":")[0] for line in err.splitlines() if "no mark at its end" in line] == ["cut.ogg"]


@pytest.mark.parametrize("stated", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000])
def test_a_wav_from_a_pipe_states_no_length_and_is_read(stated, tmp_path):
    raw = bytearray(ENCODED["wav"])
    at = raw.index(b"data") + 4
    raw[at : at + 4] = struct.pack("<I", stated)
    (tmp_path / "a.wav").write_bytes(raw)
    assert audio.read(tmp_path / "a.wav")[0].shape[1] == len(SOUND)


def test_a_header_counted_among_the_samples_is_no_cut(tmp_path):
    raw = bytearray(ENCODED["wav"])
    at = raw.index(b"data") + 4
    raw[at : at + 4] = struct.pack("<I", len(raw) - 8)
    (tmp_path / "a.wav").write_bytes(raw)
    assert audio.read(tmp_path / "a.wav")[0].shape[1] == len(SOUND)


@pytest.mark.parametrize("rate", [1, 10, 999, 384_001, 10**8, 2**31 - 1])
def test_a_rate_that_no_recording_has_is_one_line(rate, tmp_path):
    raw = bytearray(ENCODED["wav"])
    raw[24:28] = struct.pack("<I", rate)
    (tmp_path / "a.wav").write_bytes(raw)
    assert f"{rate} Hz" in refused(tmp_path / "a.wav")


@settings(max_examples=examples(120))
@given(
    kind=st.sampled_from(["wav", "float.wav", "adpcm.wav", "rf64", "aiff", "w64", "caf", "au"]),
    at=st.integers(0, 120),
    damage=st.binary(min_size=1, max_size=8),
)
def test_any_header_is_read_or_is_one_line(kind, at, damage, tmp_path_factory):
    raw = bytearray(ENCODED[kind])
    raw[at : at + len(damage)] = damage
    path = tmp_path_factory.mktemp("header") / f"a.{kind}"
    path.write_bytes(raw)
    try:
        total = sum(block.size for block in audio.read_blocks(path))
    except DeepsepError as error:
        assert "\n" not in str(error)
    else:
        assert 0 < total <= 32 * len(raw)  # four bits a sample at the least, and no more than there is


def ogg_checksum(page):
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 1 << 31 else 0)) & 0xFFFFFFFF
    return value


@pytest.mark.parametrize("more, whole", [(104, True), (2000, True), (8000, False)])
def test_an_ogg_that_states_a_few_samples_more_than_it_has_is_whole(more, whole, tmp_path):
    """Encoders' rounding at the end of a recording; some free games' music has it."""
    raw = bytearray(ENCODED["ogg"])
    at = raw.rindex(b"OggS")
    stated = struct.unpack_from("<q", raw, at + 6)[0]
    struct.pack_into("<q", raw, at + 6, stated + more)
    struct.pack_into("<I", raw, at + 22, 0)
    struct.pack_into("<I", raw, at + 22, ogg_checksum(raw[at:]))
    (tmp_path / "a.ogg").write_bytes(raw)
    if whole:
        found = audio.read(tmp_path / "a.ogg")[0]
        assert found.shape[1] == len(SOUND) + more
    else:
        refused(tmp_path / "a.ogg")


def test_a_codec_that_nobody_knows_is_one_line(tmp_path):
    raw = bytearray(ENCODED["adpcm.wav"])
    raw[20:22] = b"\xff\xfe"
    (tmp_path / "a.wav").write_bytes(raw)
    refused(tmp_path / "a.wav")


def test_oggs_joined_are_read_to_the_end(tmp_path):
    (tmp_path / "two.ogg").write_bytes(2 * ENCODED["ogg"])
    if not (pyav.is_installed() or ffmpeg.is_installed()):
        refused(tmp_path / "two.ogg")
        return
    found = audio.read(tmp_path / "two.ogg")[0]
    assert abs(found.shape[1] - 2 * len(SOUND)) < 1000
    np.testing.assert_allclose(found[:, : len(SOUND) - 500], audio_of(ENCODED["ogg"])[:, :-500], atol=2e-3)


def audio_of(raw):
    return sf.read(io.BytesIO(raw), dtype="float32")[0].T


def test_oggs_joined_are_one_line_where_only_the_first_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pyav, "is_installed", lambda: False)
    monkeypatch.setattr(ffmpeg, "is_installed", lambda: False)
    (tmp_path / "two.ogg").write_bytes(2 * ENCODED["ogg"])
    assert "PyAV" in refused(tmp_path / "two.ogg")


@pytest.mark.parametrize("kind", [b"moov", b"udta", b"meta", b"ilst", b"trak"])
def test_boxes_within_boxes_without_end_are_no_trouble(kind, tmp_path):
    inner = b""
    for _ in range(20_000):
        inner = struct.pack(">I4s", 8 + len(inner), kind) + inner
    head = struct.pack(">I4s4s4x", 16, b"ftyp", b"M4A ")
    (tmp_path / "a.m4a").write_bytes(head + inner)
    assert not read_tags(tmp_path / "a.m4a").fields
    refused(tmp_path / "a.m4a")


# --- files that name others

PLAYLISTS = {
    "concat": "ffconcat version 1.0\n" + 20 * "file other.wav\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.mp3\n#EXT-X-ENDLIST\n",
    "hls without end": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1,\nnothing.ts\n",
    "dash": '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-live:2011" type="static" '
    'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="audio/mp4"><Representation id="1" '
    'bandwidth="1"><BaseURL>other.m4a</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
}


@pytest.fixture(params=[pyav, ffmpeg], ids=["pyav", "ffmpeg"])
def decoder(request, monkeypatch):
    """PyAV and the ffmpeg program, each as if the other were not there."""
    if not request.param.is_installed():
        pytest.skip("it is not installed")
    other = ffmpeg if request.param is pyav else pyav
    monkeypatch.setattr(other, "is_installed", lambda: False)
    return request.param


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_list_of_other_files_is_no_sound_file(kind, decoder, tmp_path):
    """Or a song that was sent in would be the way to every recording on the machine, and to its network."""
    for name in ("other.wav", "other.mp3"):
        record(tmp_path / name, SOUND, RATE)
    path = tmp_path / "a.m4a"
    path.write_text(PLAYLISTS[kind])
    assert "no audio found" in refused(path)
    assert decoder.probe(path) is None


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize(
    "suffix", ["m4a", "mkv", "webm", "avi", "aac", "ac3", "wv", "tta", "wma", "ts", "flv"]
)
def test_what_holds_its_sound_is_read(suffix, decoder, tmp_path):
    made = ["-f", "lavfi", "-i", "anoisesrc=d=1:r=44100:a=0.1", "-ac", "2", tmp_path / f"a.{suffix}"]
    subprocess.run(["ffmpeg", "-v", "error", *made], check=True)
    samples = audio.read(tmp_path / f"a.{suffix}")[0]
    assert samples.shape[0] == 2 and samples.shape[1] > 40_000


def test_the_formats_are_named_as_the_libraries_name_them():
    av = pytest.importorskip("av")
    assert set(FORMATS.split(",")) <= av.formats_available


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_words_in_a_film_that_are_not_utf_8_are_no_reason_to_refuse_it(decoder, tmp_path):
    record(tmp_path / "a.wav", SOUND, RATE)
    made = ["-i", tmp_path / "a.wav", "-metadata", "title=ABCD", "-c:a", "pcm_s16le", tmp_path / "a.avi"]
    subprocess.run(["ffmpeg", "-v", "error", *made], check=True)
    (tmp_path / "b.avi").write_bytes((tmp_path / "a.avi").read_bytes().replace(b"ABCD", b"\xc5\xff\xe9\xfe"))
    assert audio.read(tmp_path / "b.avi")[0].shape[1] == len(SOUND)


# --- tags


def synchsafe(size):
    return bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))


def tagged(path, version, frame, size, mark=b"TIT2"):
    """A wav's samples as mp3 after a tag with one compressed frame, which grows to `size` bytes."""
    packed = zlib.compress(frame + b"A" * size, 9)
    if version == 4:
        flags, body = b"\0\x09", synchsafe(min(size, 2**28 - 1)) + packed
        head = mark + synchsafe(len(body)) + flags
    else:
        flags, body = b"\0\x80", struct.pack(">I", size) + packed
        head = mark + struct.pack(">I", len(body)) + flags
    artist = b"\0Someone"
    sizes = synchsafe(len(artist)) if version == 4 else struct.pack(">I", len(artist))
    content = head + body + b"TPE1" + sizes + b"\0\0" + artist
    tag = b"ID3" + bytes([version, 0, 0]) + synchsafe(len(content)) + content
    sound = io.BytesIO()
    sf.write(sound, SOUND, RATE, format="MP3")
    path.write_bytes(tag + sound.getvalue())
    return path


@pytest.mark.parametrize("version", [3, 4])
def test_a_compressed_frame_that_grows_without_bound_is_left_out(version, tmp_path):
    pytest.importorskip("mutagen")
    small = read_tags(tagged(tmp_path / "a.mp3", version, b"\0", 40))
    assert small.fields == {"title": "A" * 40, "artist": "Someone"}
    large = read_tags(tagged(tmp_path / "b.mp3", version, b"\0", MAX_INFLATED + 1))
    assert large.fields == {"artist": "Someone"} and large.too_long == ("compressed tag",)
    cover = read_tags(tagged(tmp_path / "c.mp3", version, b"\0image/png\0\3\0", MAX_INFLATED + 1, b"APIC"))
    assert cover.cover is None and cover.fields == {"artist": "Someone"}


def test_a_text_of_a_page_and_more_is_no_title(tmp_path):
    pytest.importorskip("mutagen")
    found = read_tags(tagged(tmp_path / "a.mp3", 4, b"\0", 1_000_000))
    assert found.fields == {"artist": "Someone"}
    left_out = write_what_fits(record(tmp_path / "b.flac"), found, "flac")
    assert left_out == "left out of the tags, as it is far too long: title"


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@settings(max_examples=examples(60))
@given(data=st.data(), suffix=st.sampled_from(["m4a", "mp3", "flac", "ogg", "wav"]))
def test_any_damage_to_tags_is_no_reason_to_refuse_the_music(tagged_files, tmp_path_factory, data, suffix):
    raw = bytearray(tagged_files[suffix])
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, min(len(raw), 4000) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("tags") / f"a.{suffix}"
    path.write_bytes(raw)
    assert isinstance(read_tags(path).fields, dict)


@pytest.fixture(scope="module")
def tagged_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagged")
    sf.write(folder / "x.wav", SOUND, RATE)
    found = {}
    for suffix in ("m4a", "mp3", "flac", "ogg", "wav"):
        path = folder / f"a.{suffix}"
        words = ["-metadata", "title=Song", "-metadata", "artist=Someone", path]
        subprocess.run(["ffmpeg", "-v", "error", "-i", folder / "x.wav", *words], check=True)
        found[suffix] = path.read_bytes()
    return found

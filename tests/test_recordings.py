"""What the bundled weights are scored on, they were not trained on."""

import hashlib
import re
from pathlib import Path

import pytest
import stempeg

DOCS = Path(__file__).parents[1] / "docs"


def recordings(name):
    lines = (DOCS / name).read_text().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines)
    assert len(found) == len(lines), "a recording is listed twice"
    return found


@pytest.fixture(scope="module")
def trained():
    return recordings("training_recordings.txt")


@pytest.fixture(scope="module")
def scored():
    return recordings("development_recordings.txt")


def test_the_lists_are_whole(trained, scored):
    kinds = {path.split("/")[0] for path in trained}
    solos = {"vocals", "drums", "bass", "other"}
    assert kinds == solos | {"drums+bass+other", "drums+bass", "vocals+drums+bass"}
    songs = {path.split("/")[1] for path in scored}
    assert any("Falcon" in song for song in songs) and {"potassium", "mdn_band"} <= songs
    assert sum(song.startswith("d_") for song in songs) >= 8
    for digest in (*trained.values(), *scored.values()):
        assert re.fullmatch("[0-9a-f]{16}", digest)  # otherwise no two of them would ever meet


def test_digests_are_those_of_the_files(scored):
    (digest,) = (digest for path, digest in scored.items() if "Falcon" in path)
    assert hashlib.sha256(Path(stempeg.example_stem_path()).read_bytes()).hexdigest().startswith(digest)


def test_no_recording_is_both_trained_and_scored_on(trained, scored):
    assert not set(trained.values()) & set(scored.values())


def test_no_song_that_is_scored_was_trained_on_in_another_rendering(trained, scored):
    songs = {path.split("/")[1] for path in scored}
    for path in trained:
        stem = Path(path).stem
        assert not any(stem == song or stem.startswith(f"{song}_") for song in songs), path
        assert "potassium" not in stem and "mdn" not in stem and "Falcon" not in stem

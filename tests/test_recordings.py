"""What the bundled weights are scored on, they were not trained on."""

import hashlib
import json
import re
import sys
from pathlib import Path

import pytest
import stempeg

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "scripts"))

from credit import credits_of  # noqa: E402


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
    songs = {path.split("/")[1] for path in scored if path.startswith("songs/")}
    assert sum(path.startswith("held_out/") for path in scored) == 8
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
    songs = {Path(path.split("/")[1]).stem for path in scored}
    for path in trained:
        stem = Path(path).stem
        assert not any(stem == song or stem.startswith(f"{song}_") for song in songs), path
        assert "potassium" not in stem and "mdn" not in stem and "Falcon" not in stem


def test_each_recording_has_an_author_and_a_licence_and_the_card_credits_them_all(trained):
    assert credits_of(trained) in (ROOT / "deepsep" / "bundled" / "README.md").read_text(encoding="utf-8")


def test_a_recording_without_a_licence_is_not_credited(trained):
    with pytest.raises(SystemExit, match=r"no licence of drums/unknown/a\.flac"):
        credits_of([*trained, "drums/unknown/a.flac"])


def test_every_place_states_the_same_licence_of_the_weights():
    licence = "CC BY-SA 4.0"
    config = json.loads((ROOT / "deepsep" / "bundled" / "config.json").read_text())
    assert {prior["licence"] for prior in config["priors"].values()} == {licence.replace(" ", "-")}
    for file in ("LICENSE", "README.md", "deepsep/bundled/README.md", "CITATION.cff"):
        assert licence in (ROOT / file).read_text(encoding="utf-8"), file
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'license = "MIT AND {licence.replace(" ", "-")}"' in project

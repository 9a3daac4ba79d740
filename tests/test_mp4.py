"""The stem box is found in every kind of box, replaced alone, and refused when it is malformed."""

import json
import struct

import hypothesis.strategies as st
import pytest
from cli_fixtures import examples
from hypothesis import given, settings

from deepsep.errors import DeepsepError
from deepsep.output.mp4 import add_manifest, read_manifest


def box(kind, content, form="plain"):
    if form == "wide":
        return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content
    if form == "open":
        return struct.pack(">I4s", 0, kind) + content
    return struct.pack(">I4s", 8 + len(content), kind) + content


def container(path, *user, moov="plain", udta="plain", tail=b""):
    head = box(b"ftyp", b"M4A " + bytes(4)) + box(b"mdat", b"moovudtastem" * 9, "wide")
    inner = box(b"mvhd", bytes(100)) + (box(b"udta", b"".join(user), udta) if user else b"")
    path.write_bytes(head + box(b"moov", inner, moov) + tail)
    return path


GOOD = {"version": 1, "stems": [{"name": "a", "color": "#000000"}]}


@pytest.mark.parametrize("moov", ["plain", "wide", "open"])
@pytest.mark.parametrize("udta", ["plain", "wide", "open"])
@pytest.mark.parametrize("padding", [b"", b"\0", b"\0" * 7])
def test_manifest_is_found_in_every_kind_of_box(tmp_path, moov, udta, padding):
    stem = box(b"stem", json.dumps(GOOD).encode() + padding)
    path = container(tmp_path / "a.mp4", box(b"meta", bytes(40)), stem, moov=moov, udta=udta)
    assert read_manifest(path) == GOOD


@pytest.mark.parametrize("moov", ["plain", "wide", "open"])
@pytest.mark.parametrize(
    "user", [(), (box(b"meta", b"kept"),), (box(b"stem", b"old"), box(b"meta", b"kept"), bytes(4))]
)
def test_adding_keeps_all_other_boxes_and_replaces_an_older_one(tmp_path, moov, user):
    path = container(tmp_path / "a.mp4", *user, moov=moov)
    before = path.read_bytes()
    for manifest in (GOOD, {**GOOD, "version": 2}):
        add_manifest(path, manifest)
        assert read_manifest(path) == manifest
    after = path.read_bytes()
    start = before.index(b"mvhd") - (20 if moov == "wide" else 12)
    assert after[:start] == before[:start]
    assert after.count(b"kept") == before.count(b"kept") and b"old" not in after
    assert box(b"mvhd", bytes(100)) in after


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe{}",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"version": "1.0.0", "stems": []}',
        b'{"version": "1", "stems": []}',
        b'{"version": true, "stems": []}',
        b'{"version": 0, "stems": []}',
        b'{"version": 1.5, "stems": []}',
        b'{"version": NaN, "stems": []}',
        b'{"version": 1}',
        b'{"version": 1, "stems": {}}',
        b'{"version": 1, "stems": ["drums"]}',
        b'\0{"version": 1, "stems": []}',
    ],
)
def test_malformed_manifests_are_refused(tmp_path, payload):
    path = container(tmp_path / "a.mp4", box(b"stem", payload))
    with pytest.raises(DeepsepError, match="stem box"):
        read_manifest(path)


def test_files_without_the_box_are_refused(tmp_path):
    with pytest.raises(DeepsepError, match="no stem box"):
        read_manifest(container(tmp_path / "a.mp4"))
    with pytest.raises(DeepsepError, match="no stem box"):
        read_manifest(container(tmp_path / "b.mp4", box(b"meta", box(b"stem", json.dumps(GOOD).encode()))))
    with pytest.raises(DeepsepError, match=r"c\.mp4"):
        read_manifest(tmp_path / "c.mp4")
    (tmp_path / "d.mp4").write_bytes(box(b"ftyp", b"M4A "))
    with pytest.raises(DeepsepError, match="no moov"):
        read_manifest(tmp_path / "d.mp4")


def test_every_truncation_is_refused(tmp_path):
    whole = container(tmp_path / "a.mp4", box(b"stem", json.dumps(GOOD).encode())).read_bytes()
    path = tmp_path / "b.mp4"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DeepsepError):
            read_manifest(path)


def test_moov_that_is_not_last_is_left_alone(tmp_path):
    path = container(tmp_path / "a.mp4", tail=box(b"mdat", bytes(20)))
    before = path.read_bytes()
    with pytest.raises(DeepsepError, match="faststart"):
        add_manifest(path, GOOD)
    assert path.read_bytes() == before


# boxes in boxes, whose kinds and sizes may be anything
KIND = st.sampled_from([b"ftyp", b"mdat", b"moov", b"udta", b"stem", b"meta", b"\0\0\0\0"]) | st.binary(
    min_size=4, max_size=4
)
LEAF = st.binary(max_size=40) | st.just(json.dumps(GOOD).encode())
BOX = st.builds(box, KIND, LEAF, st.sampled_from(["plain", "wide", "open"]))
BOXES = st.recursive(
    st.lists(BOX, max_size=3).map(b"".join),
    lambda inner: st.lists(st.builds(box, KIND, inner, st.sampled_from(["plain", "wide"])), max_size=3).map(
        b"".join
    ),
    max_leaves=8,
)
SIZE = st.integers(0, 2**64 - 1).map(lambda n: struct.pack(">Q", n)) | st.integers(0, 40).map(
    lambda n: struct.pack(">I", n)
)


@settings(max_examples=examples(200))
@given(tree=BOXES, inside=BOXES, data=st.data())
def test_any_tree_of_boxes_is_read_or_refused_and_a_refusal_changes_nothing(
    tmp_path_factory, tree, inside, data
):
    path = tmp_path_factory.mktemp("mp4") / "a.mp4"
    raw = bytearray(tree + box(b"moov", box(b"udta", inside)))
    for _ in range(data.draw(st.integers(0, 2))):  # a size or a kind that is not what it was
        at = data.draw(st.integers(0, len(raw) - 1))
        new = data.draw(SIZE)
        raw[at : at + len(new)] = new
    path.write_bytes(raw)
    for act in (lambda: read_manifest(path), lambda: add_manifest(path, GOOD)):
        try:
            act()
        except DeepsepError as refused:
            assert str(path) in str(refused) and "\n" not in str(refused)
            assert path.read_bytes() == raw
        else:
            found = read_manifest(path)
            assert found["version"] >= 1 and isinstance(found["stems"], list)

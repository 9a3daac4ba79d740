"""A cache of recordings is whole or not there, and a damaged one is made again."""

import json
import os

import numpy as np
import pytest
from cli_fixtures import RATE, noise, record, tree
from tiny import SPECTRUM

from deepsep.errors import DeepsepError
from deepsep.progress import Listener
from deepsep.recordings.banks import SampleBank
from deepsep.spectral.powers import PowerBank
from deepsep.spectral.spectrum import Spectrum


def samples(folder, cache, listener):
    return SampleBank.build([folder], RATE, cache, listener).samples


def powers(folder, cache, listener):
    return PowerBank.build([folder], Spectrum(SPECTRUM), cache, listener).log_power


@pytest.fixture
def data(tmp_path):
    for i in range(3):
        record(tmp_path / "data" / f"{i}.wav", noise(0.5 + i / 5, 1 + i % 2, seed=i))
    (tmp_path / "data" / "text.mp3").write_text("no audio")
    return tmp_path / "data"


def reads(build, data, cache):
    """What a bank holds, and whether recordings were read for it."""
    seen, notes = [], []
    found = np.array(build(data, cache, Listener(lambda *n: seen.append(n), notes.append)))
    assert len(notes) == 1 and "text.mp3" in notes[0]
    return found, bool(seen)


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def edit(path, change):
    table = json.loads(path.read_text())
    path.write_text(json.dumps(change(table)))


DAMAGE = {
    "store emptied": lambda table, store: cut(store, 0),
    "store cut": lambda table, store: cut(store, 0.7),
    "store longer": lambda table, store: store.write_bytes(store.read_bytes() + bytes(64)),
    "store gone": lambda table, store: store.unlink(),
    "table emptied": lambda table, store: cut(table, 0),
    "table cut": lambda table, store: cut(table, 0.6),
    "table gone": lambda table, store: table.unlink(),
    "table of bytes": lambda table, store: table.write_bytes(bytes(range(256))),
    "table of another shape": lambda table, store: table.write_text("[1, 2]"),
    "table without rows": lambda table, store: table.write_text('{"left_out": []}'),
    "table with fewer rows": lambda table, store: edit(
        table, lambda rows: {k: v if k == "left_out" else v[:-1] for k, v in rows.items()}
    ),
    "table of words": lambda table, store: edit(
        table, lambda rows: {k: v if k == "left_out" else ["a"] * len(v) for k, v in rows.items()}
    ),
    "both emptied": lambda table, store: (cut(table, 0), cut(store, 0)),
}


@pytest.mark.parametrize("build", [samples, powers])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_made_again(build, damage, data, tmp_path):
    cache = tmp_path / "cache"
    expected, read = reads(build, data, cache)
    assert read and reads(build, data, cache)[1] is False
    (table,), (store,) = cache.glob("*.json"), cache.glob("*.bin")
    DAMAGE[damage](table, store)
    found, read = reads(build, data, cache)
    assert read
    np.testing.assert_array_equal(found, expected)
    assert reads(build, data, cache)[1] is False
    assert tree(cache) == sorted([table.name, store.name])


@pytest.mark.parametrize("build", [samples, powers])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fills_leaves_no_cache(build, call, data, tmp_path, monkeypatch):
    real, failed = getattr(os, call), 0
    for n in range(10):
        left = [n]

        def fail(*args, left=left, **more):
            left[0] -= 1
            if left[0] == -1:
                raise OSError(28, "No space left on device")
            return real(*args, **more)

        cache = tmp_path / str(n)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            try:
                build(data, cache, Listener())
                assert left[0] >= 0
                break
            except DeepsepError as error:
                assert "No space left" in str(error) and "\n" not in str(error)
                failed += 1
        assert not cache.exists()
        build(data, cache, Listener())
    assert failed >= 2


def test_a_disk_that_is_full_is_named(data):
    """As the kernel tells it, on a device that takes nothing."""
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    cache = data.parent / "cache"
    with pytest.MonkeyPatch.context() as patch:
        from deepsep.recordings import files

        class Full(files.StagedFiles):
            def __init__(self, targets):
                super().__init__(targets)
                self.temporary["store"].symlink_to("/dev/full")

        patch.setattr(files, "StagedFiles", Full)
        with pytest.raises(
            DeepsepError, match=r"cache: cannot be written \(No space left on device\); make room there"
        ):
            powers(data, cache, Listener())
    assert not cache.exists()

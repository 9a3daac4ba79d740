"""Windows that do not fit into a GPU's memory are taken fewer at a time, and the stems stay what they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from cli_fixtures import noise, read, record

from deepsep.config import WINDOWS
from deepsep.errors import DeepsepError
from deepsep.inference.chunks import Window
from deepsep.inference.memory import MOST_WINDOWS, infer_in_memory, windows_that_fit
from deepsep.inference.settings import pick_batch_size
from deepsep.spectral.domain import SpectralDomain

GB = 2**30


def numbered(count):
    """Windows that hold their number."""
    return [Window(torch.full((1, 1, 4), float(i)), i, 4, 4) for i in range(count)]


class Gpu:
    """Inference where only so many windows fit; `sizes` are those of the batches that did."""

    def __init__(self, room):
        self.room, self.sizes = room, []

    def __call__(self, windows):
        if len(windows) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.sizes.append(len(windows))
        return [(window.frames_cfn,) for window in windows]


@pytest.mark.parametrize(("room", "size", "told"), [(8, 4, []), (3, 8, [4, 2]), (1, 4, [2, 1]), (5, 11, [5])])
def test_batches_are_halved_until_they_fit_and_stay_so(room, size, told):
    gpu, found = Gpu(room), []
    pairs = list(infer_in_memory(numbered(21), gpu, size, "cpu", on_size=found.append))
    assert [window.first for window, _ in pairs] == list(range(21))
    assert all(torch.equal(window.frames_cfn, planes[0]) for window, planes in pairs)
    assert found == told and max(gpu.sizes) == (told or [size])[-1]


def test_a_window_that_does_not_fit_alone_is_one_line():
    with pytest.raises(DeepsepError, match="one window at a time; use --device cpu"):
        list(infer_in_memory(numbered(3), Gpu(0), 2, "cpu"))


@pytest.mark.parametrize(
    ("free", "each", "windows"),
    [(10 * GB, GB, 8), (GB, 2 * GB, 1), (0, GB, 1), (100 * GB, 1, MOST_WINDOWS), (GB, 0, MOST_WINDOWS)],
)
def test_free_memory_is_shared_out_among_windows(free, each, windows):
    assert windows_that_fit(free, each) == windows


def test_auto_takes_one_window_to_know_what_the_others_need(monkeypatch):
    cuda = {
        "memory_allocated": 2 * GB, "max_memory_allocated": 3 * GB, "memory_reserved": 3 * GB,
        "mem_get_info": (5 * GB, 80 * GB), "reset_peak_memory_stats": None,
    }  # fmt: skip
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    gpu, told = Gpu(8), []
    assert len(list(infer_in_memory(numbered(10), gpu, None, "cuda", on_size=told.append))) == 10
    # 5 GB are free and 1 GB is kept by the allocator; a window takes 1 GB
    assert (told, gpu.sizes) == ([4], [1, 4, 4, 1])
    assert list(infer_in_memory([], gpu, None, "cuda")) == []


def test_auto_is_the_default_where_there_is_no_gpu():
    assert pick_batch_size("auto", "cpu") == pick_batch_size("auto", "mps") == WINDOWS
    assert pick_batch_size("auto", "cuda:1") is None and pick_batch_size(7, "cuda") == 7
    for nonsense in (0, "many"):
        with pytest.raises(DeepsepError, match="at least 1 or auto"):
            pick_batch_size(nonsense, "cpu")


@pytest.fixture
def full(monkeypatch):
    """Make a separation's device hold so many windows."""

    def fill(room):
        infer = SpectralDomain.infer

        def limited(self, windows, separation):
            if len(windows) > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return infer(self, windows, separation)

        monkeypatch.setattr(SpectralDomain, "infer", limited)

    return fill


def test_the_program_says_so_in_a_line_and_remembers_it(deepsep, priors, full):
    for name in ("a.wav", "b.wav"):
        record(Path(name), noise(30.0, 1))
    words = ("separate", "--priors", priors, "a.wav", "b.wav", "--batch-size", "4", "--stems", "vocals")
    deepsep.good(*words, "-o", "enough")
    full(1)
    code, out, err = deepsep(*words, "-o", "little")
    assert (code, out) == (0, "") and err.count("\n") == 3
    first, second, _ = err.splitlines()
    assert "the GPU's memory was full: windows taken 1 at a time, not 4" in first
    assert "memory" not in second
    for name in ("a", "b"):
        known, found = (read(Path(folder, name, "vocals.wav")) for folder in ("enough", "little"))
        np.testing.assert_allclose(found, known, atol=1e-6)


def test_a_gpu_that_holds_no_window_is_a_line(deepsep, priors, full):
    record(Path("a.wav"))
    full(0)
    assert "the GPU's memory is full" in deepsep.bad("separate", "--priors", priors, "a.wav", "-o", "out")


def test_the_batch_size_that_is_typed(deepsep, priors):
    record(Path("a.wav"))
    words = ("separate", "--priors", priors, "a.wav", "-o", "out", "--batch-size")
    assert deepsep(*words, "auto")[0] == 0
    for nonsense in ("0", "many", "1025", "-1", "9" * 50):
        code, out, err = deepsep(*words, nonsense)
        assert (code, out) == (2, "") and "--batch-size takes auto, or a number from 1 to 1024" in err

"""Cutting into windows and joining again loses, doubles and colours nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepsep.inference.chunks import Reader, Window, batched, join, windows


@st.composite
def layouts(draw):
    core, context = draw(st.integers(1, 12)), draw(st.integers(0, 10))
    fade = 2 * draw(st.integers(0, min(core // 2, context)))
    return core, context, fade


def counted(frames):
    """A signal of 2 channels, 3 bins, whose every value says which frame it belongs to, from 1."""
    return (torch.arange(frames) + 1.0).expand(2, 3, -1).clone()


def cut(spectra, pieces):
    return [p for p in torch.tensor_split(spectra, sorted(pieces), -1) if p.shape[-1]]


@given(frames=st.integers(1, 60), layout=layouts(), pieces=st.lists(st.integers(0, 60), max_size=5))
def test_a_window_sees_its_frames_and_beyond_the_signal_its_mirror_image(frames, layout, pieces):
    core, context, _ = layout
    spectra = counted(frames)
    seen = list(windows(cut(spectra, pieces), core, context))
    assert sum(w.length for w in seen) == frames
    padded = np.pad(spectra.numpy(), [(0, 0), (0, 0), (context, context)], mode="reflect")
    for i, window in enumerate(seen):
        assert window.first == i * core - context
        expected = padded[..., i * core : i * core + window.length + 2 * context]
        np.testing.assert_array_equal(window.frames_cfn[..., : window.length + 2 * context], expected)
        assert window.length <= window.frames_cfn.shape[-1] - 2 * context <= core
        assert window.end == min(frames - window.first, window.frames_cfn.shape[-1])


@given(frames=st.integers(1, 60), layout=layouts(), pieces=st.lists(st.integers(0, 60), max_size=5))
def test_joining_gives_every_frame_once_in_order(frames, layout, pieces):
    core, context, fade = layout
    spectra = counted(frames)
    estimates = (
        (w, (w.frames_cfn[:1].clone(), -w.frames_cfn)) for w in windows(cut(spectra, pieces), core, context)
    )
    joined = list(join(estimates, core, context, fade))
    assert all(s.shape[-1] == e.shape[-1] == o.shape[-1] for s, (e, o) in joined)
    assert torch.equal(torch.cat([s for s, _ in joined], -1), spectra)
    torch.testing.assert_close(torch.cat([e for _, (e, _) in joined], -1), spectra[:1])
    torch.testing.assert_close(torch.cat([o for _, (_, o) in joined], -1), -spectra)


@given(count=st.integers(1, 5), layout=layouts(), short=st.integers(0, 11))
def test_estimates_fade_evenly_into_one_another(count, layout, short):
    """Window i says i everywhere: the joined estimate is i inside, and a straight line across each border."""
    core, context, fade = layout
    frames = count * core - min(short, core - 1)
    estimates = (
        (w, (torch.full((1, 1, w.frames_cfn.shape[-1]), float(i)),))
        for i, w in enumerate(windows([counted(frames)], core, context))
    )
    out = torch.cat([e for _, (e,) in join(estimates, core, context, fade)], -1).flatten()
    expected = torch.zeros(frames)
    for i in range(1, count):
        line = (torch.arange(frames) + 0.5 - i * core) / max(fade, 1e-9) + 0.5
        expected += line.clamp(0, 1)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_a_fade_wider_than_what_windows_share_is_refused():
    window = next(windows([counted(9)], 4, 2))
    for fade, core, context in [(6, 8, 2), (6, 4, 4)]:
        with pytest.raises(ValueError, match="fade 6"):
            list(join([(window, (window.frames_cfn,))], core, context, fade))


@given(count=st.integers(0, 20), size=st.integers(1, 7))
def test_batches_keep_order_and_size(count, size):
    items = [Window(torch.zeros(1, 1, 8), first, 8, 8) for first in range(count)]
    batches = list(batched(iter(items), size))
    assert [item.first for batch in batches for item in batch] == list(range(count))
    assert all(len(batch) == size for batch in batches[:-1]) and all(0 < len(b) <= size for b in batches)


def test_windows_of_another_length_make_a_batch_of_their_own():
    lengths = [8, 8, 8, 4]
    items = [Window(torch.zeros(1, 1, n), i, n, n) for i, n in enumerate(lengths)]
    assert [len(batch) for batch in batched(iter(items), 2)] == [2, 1, 1]
    assert [len(batch) for batch in batched(iter(items), 3)] == [3, 1]


def test_the_last_window_is_no_longer_than_it_must_be():
    signal = torch.randn(1, 1, 256 + 40)
    *_, last = windows([signal], 256, 64)
    assert (last.length, last.frames_cfn.shape[-1]) == (40, 64 + 2 * 64)


def test_nothing_in_nothing_out():
    assert list(windows([], 4, 2)) == [] and list(join([], 4, 2, 2)) == []


@given(
    blocks=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    lengths=st.lists(st.integers(0, 12), max_size=8),
)
def test_a_stream_read_in_other_pieces_is_the_same_stream(blocks, lengths):
    signal = np.arange(2 * sum(blocks), dtype=np.float32).reshape(2, -1)
    ends = np.cumsum(blocks)
    reader = Reader(signal[:, end - n : end] for n, end in zip(blocks, ends, strict=True))
    pieces = [reader.take(length) for length in lengths]
    whole = np.concatenate([*pieces, reader.take(sum(blocks))], -1)
    np.testing.assert_array_equal(whole, signal)
    for piece, length, done in zip(pieces, lengths, np.cumsum([0, *lengths]), strict=False):
        assert piece.shape[-1] == min(length, max(0, sum(blocks) - done))

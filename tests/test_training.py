"""A run that is stopped and resumed is the run that was not; nothing else is taken for it."""

import itertools
import json

import pytest
import torch
from safetensors import safe_open
from torch import nn

from deepsep.config import TrainConfig
from deepsep.errors import DeepsepError
from deepsep.inference.domain import Task
from deepsep.training.loop import Run, blend, train

IDENTITY = {"kind": "line", "network": {"widths": [3, 1]}}
CONFIG = TrainConfig(steps=6, lr=0.05, warmup=2, ema=0.9)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def batches(start=0, stop=None):
    """Endless batches, each known by its number; Ctrl-C comes instead of number `stop`."""
    for i in itertools.count(start):
        if i == stop:
            raise KeyboardInterrupt
        yield torch.randn(8, 3, generator=torch.Generator().manual_seed(i))


def loss(model, x, draws):
    noise = draws.normal((len(x), 1), x.device)  # so that the generator's state matters
    value = (model(x) - x.sum(1, keepdim=True) + 0.1 * noise).square().mean()
    return value, {"error": value.detach()}


def go(folder, source, model=None, config=CONFIG, seed=1, identity=IDENTITY, evaluate=None, **more):
    model = model or network()
    task = Task(source, loss, evaluate or (lambda average: {}))
    run = Run(
        checkpoint=folder / "work" / "run.safetensors", identity=identity, rng=torch.Generator().manual_seed(seed),
        **more,
    )  # fmt: skip
    average, result = train(model, task, config, run)
    return model, average, result.status, result.finished


def same(a, b):
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_stopped_and_resumed_is_the_whole_run(tmp_path):
    whole, whole_average, status, finished = go(tmp_path / "whole", batches())
    assert finished and status.step == 6 and status.fraction == 1
    half, _, status, finished = go(tmp_path / "parts", batches(stop=3))
    assert not finished and status.step == 3
    assert not same(whole, half)
    # another seed and other initial weights: the checkpoint overrides both
    rest, average, status, finished = go(tmp_path / "parts", batches(3), network(9), seed=9, resume=True)
    assert finished and status.step == 6
    assert same(rest, whole) and same(average, whole_average)


def test_ctrl_c_saves_what_it_had(tmp_path):
    saved = []
    model, average, _, finished = go(
        tmp_path, batches(stop=2), on_save=lambda average, status: saved.append((average, status.step))
    )
    assert not finished and not model.training
    assert saved == [(average, 2)]
    with safe_open(tmp_path / "work" / "run.safetensors", "pt") as file:
        note = json.loads(file.metadata()["deepsep"])
        for key, tensor in model.state_dict().items():
            assert torch.equal(file.get_tensor(f"model.{key}"), tensor)
    assert note["step"] == 2 and note["identity"] == IDENTITY
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["run.safetensors"]


def test_another_configuration_is_refused_and_named(tmp_path):
    go(tmp_path, batches(stop=2))
    before = (tmp_path / "work" / "run.safetensors").read_bytes()
    for identity in ({**IDENTITY, "network": {"widths": [5]}}, {"kind": "line"}, {**IDENTITY, "more": 1}):
        with pytest.raises(DeepsepError, match="another configuration") as caught:
            go(tmp_path, batches(2), identity=identity, resume=True)
        assert ("network" in str(caught.value)) or ("more" in str(caught.value))
        assert "\n" not in str(caught.value)
    assert (tmp_path / "work" / "run.safetensors").read_bytes() == before


def test_what_is_no_checkpoint_is_one_line(tmp_path):
    with pytest.raises(DeepsepError, match="no checkpoint"):
        go(tmp_path, batches(), resume=True)
    go(tmp_path, batches(stop=1))
    path = tmp_path / "work" / "run.safetensors"
    for damaged in (b"", b"not safetensors at all", path.read_bytes()[:-40]):
        path.write_bytes(damaged)
        with pytest.raises(DeepsepError, match="not a deepsep checkpoint"):
            go(tmp_path, batches(), resume=True)


def test_a_finished_run_resumed_does_nothing_more(tmp_path):
    whole, *_ = go(tmp_path, batches())
    again, _, status, finished = go(tmp_path, iter([]), network(5), resume=True)
    assert finished and status.step == 6 and same(again, whole)


def test_the_average_follows_the_weights(tmp_path):
    """ema 0 keeps the last weights; else each step blends, at first over the few steps there were."""
    model, average, *_ = go(tmp_path, batches(), config=TrainConfig(steps=4, ema=0.0))
    assert same(model, average) and not average.training
    assert not any(p.requires_grad for p in average.parameters())

    model = network()
    expected, step = model[0].weight.detach().clone(), 0

    def watch(status):
        nonlocal expected, step
        step = status.step
        keep = min(0.6, (step + 1) / (step + 10))
        expected = keep * expected + (1 - keep) * model[0].weight.detach()

    config = TrainConfig(steps=30, lr=0.05, warmup=2, ema=0.6)
    _, average, *_ = go(tmp_path / "b", batches(), model, config, on_step=watch)
    assert step == 30
    torch.testing.assert_close(average[0].weight, expected)
    assert not torch.allclose(average[0].weight, model[0].weight, atol=1e-4)


def test_blending_takes_buffers_along():
    a, b = network(0), network(1)
    b(torch.randn(16, 3))
    blend(a, b, 0.25)
    torch.testing.assert_close(a[1].running_mean, 0.75 * b[1].running_mean)
    assert a[1].num_batches_tracked == 1


def test_a_step_that_is_not_finite_leaves_the_weights_alone(tmp_path):
    def broken(source):
        for i, batch in enumerate(source):
            yield batch * float("nan") if i == 2 else batch

    model = nn.Linear(3, 1)
    seen = []
    go(tmp_path, broken(batches()), model, on_step=lambda _: seen.append(model.weight.detach().clone()))
    assert torch.equal(seen[2], seen[1]) and not torch.equal(seen[3], seen[2])
    assert model.weight.isfinite().all()


def test_it_learns_warms_up_and_tells_how_far_it_is(tmp_path):
    told = []
    config = TrainConfig(steps=150, lr=0.05, warmup=10, ema=0.9)
    go(
        tmp_path, batches(), nn.Linear(3, 1), config,
        on_step=told.append, evaluate=lambda average: {"held out": 1.0},
    )  # fmt: skip
    assert [s.step for s in told] == list(range(1, 151))
    assert all(b.fraction > a.fraction for a, b in itertools.pairwise(told))
    assert told[-1].figures["error"] < 0.3 * told[0].figures["error"]
    assert all(s.rate > 0 and s.eta >= 0 for s in told)


def test_a_run_ends_by_minutes_too(tmp_path):
    config = TrainConfig(steps=10**9, minutes=0.005)
    _, _, status, finished = go(tmp_path, batches(), nn.Linear(3, 1), config)
    assert finished and status.fraction == 1 and 0 < status.step < 10**6

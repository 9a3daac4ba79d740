"""A checkpoint is resumed whole or refused in one line, and then nothing of the run has been touched."""

import json
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import soundfile
import torch
from cli_fixtures import examples
from hypothesis import given, settings
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import DOMAIN, SPECTRUM, can_be_written
from torch import nn

import deepsep
from deepsep.errors import DeepsepError
from deepsep.models.weights import load_weights
from deepsep.training.checkpoint import State, load_checkpoint, save_checkpoint

IDENTITY = {"kind": "line", "network": {"widths": [3, 1]}}


def fresh(seed=0, trained=True):
    """A run after one step, or before the first."""
    torch.manual_seed(seed)
    model, average = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)) for _ in range(2))
    optimizer = torch.optim.AdamW(model.parameters())
    if trained:
        model(torch.randn(8, 3)).sum().backward()
        optimizer.step()
    return State(model, average, optimizer, torch.Generator().manual_seed(seed))


def snapshot(state):
    weights = [
        *state.model.state_dict().values(),
        *state.average.state_dict().values(),
        state.rng.get_state(),
    ]
    moments = [torch.as_tensor(v) for m in state.optimizer.state_dict()["state"].values() for v in m.values()]
    return [tensor.clone() for tensor in (*weights, *moments)]


def equal(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "run.safetensors"
    save_checkpoint(path, {"identity": IDENTITY, "step": 7, "minutes": 0.5, "data": "x"}, fresh())
    return path


def take(path):
    """The tensors and the note of a checkpoint; copies, since older versions map the file, which is written over."""
    with safe_open(path, "pt") as file:
        return {k: file.get_tensor(k).clone() for k in file.keys()}, json.loads(file.metadata()["deepsep"])


def store(path, tensors, note):
    text = note if isinstance(note, str) else json.dumps(note)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"deepsep": text})
    return path


def refused(path):
    state = fresh(5)
    before = snapshot(state)
    with pytest.raises(DeepsepError) as caught:
        load_checkpoint(path, IDENTITY, state)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert equal(snapshot(state), before)
    return str(caught.value)


def test_a_whole_checkpoint_restores_everything(whole):
    state = fresh(5)
    assert load_checkpoint(whole, IDENTITY, state) == (7, 0.5)
    assert equal(snapshot(state), snapshot(fresh()))


def test_a_run_before_its_first_step_is_restored(tmp_path):
    save_checkpoint(tmp_path / "x", {"identity": IDENTITY, "step": 0, "minutes": 0}, fresh(trained=False))
    state = fresh(5)
    assert load_checkpoint(tmp_path / "x", IDENTITY, state) == (0, 0.0)
    assert equal(snapshot(state), snapshot(fresh(trained=False)))


@pytest.mark.parametrize("value", [7e4, -1e30, float("inf"), float("nan")])
def test_weights_that_could_not_be_read_again_replace_nothing(whole, tmp_path, value):
    path = tmp_path / "run.safetensors"
    path.write_bytes(whole.read_bytes())
    diverged = fresh()
    with torch.no_grad():
        diverged.average[0].weight[0, 0] = value
    with pytest.raises(DeepsepError, match=r"diverged .*average\.0\.weight.*lower --lr"):
        save_checkpoint(path, {"identity": IDENTITY, "step": 8, "minutes": 1.0}, diverged)
    assert path.read_bytes() == whole.read_bytes()
    tensors, note = take(whole)
    tensors["average.0.weight"][0, 0] = value
    assert "average.0.weight" in refused(store(tmp_path / "x", tensors, note))


NOTES: dict[str, list[Any]] = {
    "step": ["7", 7.5, None, True, -1, 10**30, float("nan"), [7], {}],
    "minutes": ["1", None, True, -1.0, float("nan"), float("inf"), 1e300, 10**400, [1]],
    "identity": [
        None,
        [],
        "x",
        3,
        {"kind": 10**400},
        {"kind": "x" * 10**5, **{str(i): i for i in range(999)}},
    ],
    "data": [3, [], {}],
    "tensors": ["x", 3, 1.5, -1],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in NOTES.items() for v in values])
def test_a_note_of_other_types_is_one_line(name, value, whole, tmp_path):
    tensors, note = take(whole)
    refused(store(tmp_path / "x", tensors, {**note, name: value}))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "[" * 10**5, '{"identity":' * 10**5, "{}"])
def test_a_note_that_is_none_is_one_line(text, whole, tmp_path):
    assert "damaged" in refused(store(tmp_path / "x", take(whole)[0], text))


WRITTEN = [
    way
    for way, dtype in (("type", torch.float8_e4m3fn), ("complex", torch.complex64))
    if can_be_written(dtype)
]


def spoil(tensor, how):
    """A tensor as it must not be."""
    if how == "shape":
        return torch.zeros(*tensor.shape, 2).to(tensor.dtype)
    if how == "flat":
        return torch.zeros(7).to(tensor.dtype)
    if how == "type":
        return tensor.to(torch.float8_e4m3fn) if tensor.is_floating_point() else tensor.to(torch.int32)
    if how == "complex":
        return tensor.to(torch.complex64)
    value = {"nan": float("nan"), "inf": float("inf"), "huge": 1e30}[how]
    return torch.full_like(tensor, value)


@settings(max_examples=examples(100))
@given(data=st.data())
def test_any_tensor_missing_added_or_spoilt_is_one_line(whole, data, tmp_path_factory):
    tensors, note = take(whole)
    name = data.draw(st.sampled_from(sorted(tensors)))
    ways = ["missing", "renamed", "added", "shape", "flat", *WRITTEN]
    how = data.draw(st.sampled_from(ways + ["nan", "inf", "huge"] * tensors[name].is_floating_point()))
    if how == "missing":
        del tensors[name]
    elif how == "renamed":
        tensors[data.draw(st.sampled_from(["adam.x.exp_avg", "adam.0", "adam.99.step", "model.", "x"]))] = (
            tensors.pop(name)
        )
    elif how == "added":
        tensors[name + "x"] = torch.zeros(1)
    else:
        tensors[name] = spoil(tensors[name], how)
    assert "damaged" in refused(store(tmp_path_factory.mktemp("spoilt") / "x", tensors, note))


def test_all_moments_of_a_parameter_are_missed(whole, tmp_path):
    tensors, note = take(whole)
    kept = {k: v for k, v in tensors.items() if not k.startswith("adam.2.")}
    assert "tensors" in refused(store(tmp_path / "x", kept, note))


@pytest.mark.parametrize(
    "name", ["adam.0.exp_avg_sq", "model.1.running_var", "average.1.num_batches_tracked", "adam.1.step"]
)
def test_what_cannot_be_negative(name, whole, tmp_path):
    tensors, note = take(whole)
    tensors[name] = -torch.ones_like(tensors[name])
    assert "negative" in refused(store(tmp_path / "x", tensors, note))


@settings(max_examples=examples(60))
@given(data=st.data())
def test_any_damaged_byte_or_cut_is_one_line_or_a_run(whole, data, tmp_path_factory):
    raw = bytearray(whole.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw = raw[:at]
    else:
        raw[at] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("bytes") / "x"
    path.write_bytes(raw)
    try:
        load_checkpoint(path, IDENTITY, fresh(5))
    except DeepsepError as error:
        assert "\n" not in str(error)


def test_both_resumes_refuse_in_one_line(tmp_path):
    """Of a prior and of an encoder, through the functions that the commands call."""
    random = np.random.default_rng(0)
    priors, data = tmp_path / "priors", {s: tmp_path / f"{s}.wav" for s in ("a", "b")}
    flow = deepsep.SpectralFlowConfig(channels=SPECTRUM.bands, steps=1, hidden=4, layers=1)
    net = deepsep.SpectralEncoderConfig(bands=SPECTRUM.bands, widths=(4,), bottleneck=2, deep=0)

    def prior(source, start):
        run = deepsep.PriorTraining(steps=2, batch=2, frames=16)
        deepsep.train_prior(source, data[source], priors, domain=DOMAIN, flow=flow, training=run, start=start)

    def encoder(start):
        run = deepsep.EncoderTraining(steps=2, batch=2, frames=16, workers=0, objective="simulated")
        deepsep.train_encoder(priors, data, network=net, training=run, start=start)

    for source, path in data.items():
        soundfile.write(path, 0.1 * random.standard_normal(5 * SPECTRUM.rate), SPECTRUM.rate)
        prior(source, "new")
    encoder("new")
    before = {path: path.read_bytes() for path in priors.glob("*.*")}
    for name, resume in (("a", lambda: prior("a", "resume")), ("encoder", lambda: encoder("resume"))):
        path = priors / "training" / f"{name}.safetensors"
        tensors, note = take(path)
        first = next(iter(sorted(tensors)))
        for changed, told in (
            ((tensors, {**note, "step": "2"}), "step"),
            (({**tensors, first: torch.full_like(tensors[first], torch.nan)}, note), "NaN"),
            (({k: v for k, v in tensors.items() if k != first}, note), "missing"),
        ):
            store(path, *changed)
            with pytest.raises(DeepsepError, match=told) as caught:
                resume()
            assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert {path: path.read_bytes() for path in priors.glob("*.*")} == before


def test_a_header_that_no_network_needs_is_not_read(tmp_path):
    header = json.dumps(
        {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(80_000)}
    )
    path = tmp_path / "long.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(DeepsepError, match="its header is longer than"):
        load_checkpoint(path, IDENTITY, fresh())
    with pytest.raises(DeepsepError, match="its header is longer than"):
        load_weights(lambda: nn.Linear(1, 1), path)

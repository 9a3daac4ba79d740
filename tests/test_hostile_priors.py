"""Whatever a priors folder says, it is loaded or refused in one line; it never takes more memory than its files."""

import copy
import json
import os
import resource
import shutil

import hypothesis.strategies as st
import pytest
import torch
from cli_fixtures import examples
from hypothesis import given, settings
from safetensors.torch import load_file, save_file
from tiny import can_be_written, folder_of

from deepsep.config import (
    SpectralEncoderConfig,
    SpectralFlowConfig,
    SpectrumConfig,
    WaveformConfig,
    WaveformEncoderConfig,
    WaveformFlowConfig,
    from_dict,
    parse_json,
    to_dict,
)
from deepsep.errors import DeepsepError
from deepsep.models import card, files
from deepsep.models.folder import digest, load, read_config

KINDS = (
    SpectrumConfig, SpectralFlowConfig, SpectralEncoderConfig, WaveformConfig, WaveformFlowConfig,
    WaveformEncoderConfig,
)  # fmt: skip

numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 1.5, 10**9, 10**18, 10**400, 2**31, 2**63, 1e-300, 1e300]),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def places(table, before=()):
    """Every place of a JSON value, as the keys that lead to it."""
    for key, item in table.items() if isinstance(table, dict) else enumerate(table):
        yield (*before, key)
        if isinstance(item, (dict, list)):
            yield from places(item, (*before, key))


def put(config, place, value):
    *above, last = place
    for key in above:
        config = config[key]
    config[last] = value


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("hostile"), "vocals", "drums", encoder=True)


@pytest.fixture
def spoilt(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "spoilt")


def load_all(folder):
    """The model, and the priors that wait beside an encoder until they are asked for."""
    model = load(folder)
    return model, dict(model.priors)


def refused(folder):
    with pytest.raises(DeepsepError) as caught:
        load_all(folder)
    told = str(caught.value)
    assert "\n" not in told and len(told) < 600 and str(folder) in told
    return told


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@settings(max_examples=examples(100))
@given(data=st.data())
def test_any_value_anywhere_in_config_json_loads_or_is_one_line(folder, data):
    whole = json.loads((folder / "config.json").read_text())
    config = copy.deepcopy(whole)
    try:
        put(config, data.draw(st.sampled_from(list(places(config)))), data.draw(values))
        (folder / "config.json").write_text(json.dumps(config))
        card.model_card(config, "org/name")
        try:
            assert load_all(folder)[0].sources
        except DeepsepError as error:
            assert "\n" not in str(error) and len(str(error)) < 600
    finally:
        (folder / "config.json").write_text(json.dumps(whole))


@settings(max_examples=examples(150))
@given(kind=st.sampled_from(KINDS), data=st.data())
def test_what_is_read_has_the_types_that_the_annotations_say(kind, data):
    raw = to_dict(kind())
    name = data.draw(st.sampled_from(sorted(raw)))
    value = data.draw(st.one_of(values, st.integers(1, 64)))
    try:
        found = getattr(from_dict(kind, {**raw, name: value}), name)
    except DeepsepError as error:
        assert "\n" not in str(error)
        return
    default = getattr(kind(), name)
    assert isinstance(found, type(default)) or (isinstance(default, float) and type(found) is int)
    assert found == found and (not isinstance(found, (int, float)) or abs(found) <= 1e6)


@pytest.mark.parametrize(
    "value", [True, 1.0, "1", None, [1], 0, -1, 10**9, 10**400, float("nan"), float("inf")]
)
def test_a_size_is_a_whole_number_within_bounds(value):
    for name in ("hidden", "layers", "steps", "channels"):
        with pytest.raises(DeepsepError, match=name):
            from_dict(SpectralFlowConfig, {name: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), True, "1", 1e300, 10**400])
def test_a_real_setting_is_finite(value):
    for kind, name in (
        (SpectrumConfig, "shift"),
        (SpectralFlowConfig, "sigma_max"),
        (WaveformFlowConfig, "sigma_min"),
    ):
        with pytest.raises(DeepsepError, match=name):
            from_dict(kind, {name: value})


LARGE = {
    "wide": {"hidden": 4096},
    "deep": {"layers": 15, "steps": 128, "hidden": 4096},
    "far": {"layers": 64},
    "kernel": {"kernel": 65, "hidden": 4096},
}


@pytest.mark.parametrize("sizes", LARGE)
def test_a_network_larger_than_its_file_is_never_built(sizes, spoilt):
    """The largest of these would have 10^12 weights."""
    edit(spoilt, lambda config: config["priors"]["vocals"]["flow"].update(LARGE[sizes]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(spoilt)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_sizes_that_agree_with_one_another_are_compared_with_the_file(spoilt):
    """A spectrum of 4000 bands, and flows and an encoder of as many: only the weights say otherwise."""
    spectrum = {"rate": 192000, "n_fft": 8192, "single_bins": 8000}
    bands = SpectrumConfig(**spectrum).bands
    assert bands > 4000

    def lie(config):
        config["spectrum"].update(spectrum)
        config["encoder"]["network"]["bands"] = bands
        for prior in config["priors"].values():
            prior["flow"]["channels"] = bands

    edit(spoilt, lie)
    refused(spoilt)


def reweigh(folder, change, name="vocals.safetensors"):
    """Change the weights of a file, which config.json then lists as it is."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)
    data = (folder / name).read_bytes()
    edit(folder, lambda c: c["files"].update({name: {"sha256": digest(data), "size": len(data)}}))


def fill_first(value):
    def change(tensors):
        tensors["embedding.dense.weight"] = tensors["embedding.dense.weight"].float()
        tensors["embedding.dense.weight"].view(-1)[0] = value

    return change


def recast(dtype, name="embedding.dense.weight"):
    return lambda tensors: tensors.update({name: tensors[name].to(dtype)})


def permute(tensors):
    tensors["steps.1.permutation"] += 1


WEIGHTS = {
    "nan": fill_first(float("nan")),
    "inf": fill_first(float("inf")),
    "minus inf": fill_first(-float("inf")),
    "huge": fill_first(1e30),
    "float8": recast(torch.float8_e4m3fn),
    "complex": recast(torch.complex64),
    "whole numbers for weights": recast(torch.int64),
    "truths for weights": recast(torch.bool),
    "a permutation of reals": recast(torch.float32, "steps.1.permutation"),
    "no permutation": permute,
    "a huge scale": lambda t: t["steps.0.log_scale"].fill_(1000),
    "a negative variance": lambda t: t["whitening.variance"].fill_(-1),
    "no sign": lambda t: t["steps.1.sign"].zero_(),
    "one missing": lambda t: t.pop("steps.0.loc"),
    "one too many": lambda t: t.update(more=torch.zeros(10)),
    "another shape": lambda t: t.update({"steps.0.loc": torch.zeros(3, 1)}),
    "nothing": lambda t: t.clear(),
}  # fmt: skip


@pytest.mark.parametrize("what", WEIGHTS)
def test_weights_that_no_training_leaves_behind_are_one_line(what, spoilt):
    if not can_be_written(
        {"float8": torch.float8_e4m3fn, "complex": torch.complex64}.get(what, torch.float32)
    ):
        pytest.skip("safetensors does not write such numbers")
    reweigh(spoilt, WEIGHTS[what])
    assert "vocals.safetensors" in refused(spoilt)


@pytest.mark.parametrize("value", [float("nan"), -1.0])
def test_an_encoder_is_checked_as_well(value, spoilt):
    def change(tensors):
        (name,) = [n for n in tensors if n.endswith("down.0.convolutions.1.running_var")]
        tensors[name] = torch.full_like(tensors[name], value)

    reweigh(spoilt, change, "encoder.safetensors")
    assert "encoder.safetensors" in refused(spoilt)


def test_weights_of_any_precision_are_taken(spoilt):
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        reweigh(spoilt, recast(dtype))
        assert load(spoilt).priors["vocals"].embedding.dense.weight.dtype == torch.float32


def test_sizes_within_bounds_that_take_too_much_together_are_refused():
    wide = {"bands": 1001, "context": 2048, "widths": [64], "bottleneck": 1, "deep": 0}
    with pytest.raises(DeepsepError, match="too much memory together"):
        from_dict(SpectralEncoderConfig, wide)
    assert from_dict(SpectralEncoderConfig, {**wide, "context": 256}).bands == 1001
    with pytest.raises(DeepsepError, match="take longer ones"):
        from_dict(WaveformConfig, {"window": 64, "rate": 384_000})


@pytest.mark.parametrize("digits", [2000, 5000])
def test_a_number_of_very_many_digits_is_told_as_such(digits, spoilt):
    (spoilt / "config.json").write_text(f'{{"format": -{"9" * digits}}}')
    assert f"it has a number of {digits + 1} digits" in refused(spoilt)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 100 + "]" * 100])
def test_deep_json_is_one_line(text, spoilt):
    (spoilt / "config.json").write_text(text)
    assert "config.json" in refused(spoilt)
    with pytest.raises(ValueError):
        parse_json(text)


def test_a_pipe_for_a_config_is_not_waited_for(spoilt):
    (spoilt / "config.json").unlink()
    os.mkfifo(spoilt / "config.json")
    for read in (files.read_json, read_config, load):
        with pytest.raises(DeepsepError, match="regular file"):
            read(spoilt)


@pytest.mark.parametrize("name", ["config.json", "vocals.safetensors", "README.md"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_pushed_lies_in_the_folder_itself(name, kind, spoilt, tmp_path, deepsep):
    """A link out of the folder would share, or write over, somebody else's file."""
    outside = tmp_path / "outside"
    inside = spoilt / name
    outside.write_bytes(inside.read_bytes() if inside.exists() else b"private")
    before = outside.read_bytes()
    inside.unlink(missing_ok=True)
    {"link": lambda: inside.symlink_to(outside), "pipe": lambda: os.mkfifo(inside), "folder": inside.mkdir}[
        kind
    ]()
    for words in (("--card-only",), ()):
        line = deepsep.bad("priors", "push", spoilt, "org/name", *words)
        assert name in line
    assert outside.read_bytes() == before


def test_a_card_that_is_no_text_is_one_line(spoilt, deepsep):
    (spoilt / "README.md").write_bytes(b"\xff\xfe\x00")
    assert "README.md" in deepsep.bad("priors", "push", spoilt, "org/name", "--card-only")

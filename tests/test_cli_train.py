"""Training as a user trains: two instruments that are easily told apart, Ctrl-C, resuming, and whatever is wrong."""

import json
import os
import re
import shutil
import signal
import subprocess

import numpy as np
import pytest
import soundfile as sf
from cli_fixtures import FOUR, noise, program, record, tree
from processes import PATIENCE, is_there, until
from safetensors import safe_open
from safetensors.numpy import load_file
from tiny import folder_of
from typer.testing import CliRunner

from deepsep.cli.app import app
from deepsep.errors import DeepsepError
from deepsep.evaluation import metrics
from deepsep.training import checkpoint as training

RATE = 44100
FLOW = ["--flow-steps", 2, "--hidden", 16, "--frames", 32, "--batch", 8]
TINY_FLOW = ["--flow-steps", 1, "--hidden", 4, "--frames", 16, "--batch", 2]
NETWORK = ["--widths", "8,16", "--bottleneck", 8, "--frames", 32, "--batch", 8, "--workers", 0]
TINY_NETWORK = ["--widths", "4,4", "--bottleneck", 4, "--frames", 16, "--batch", 2, "--workers", 0]


def tones(seconds, seed):
    """Low notes of three partials that swell and fade slowly."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    out = np.zeros(len(t))
    for start in np.arange(0, seconds, 0.8):
        since = np.maximum(t - start, 0)
        hertz = rng.uniform(80, 320)
        note = sum(a * np.sin(2 * np.pi * hertz * h * t) for h, a in ((1, 1), (2, 0.4), (3, 0.15)))
        out += note * (1 - np.exp(-since / 0.05)) * np.exp(-since / 0.6)
    return (0.2 * out).astype(np.float32)


def bursts(seconds, seed):
    """Short noises of all frequencies, four a second."""
    rng = np.random.default_rng(seed)
    out = np.zeros(int(seconds * RATE))
    for start in np.arange(0, seconds, 0.25):
        piece = out[int((start + rng.uniform(0, 0.05)) * RATE) :][: RATE // 8]
        piece += rng.normal(size=len(piece)) * np.exp(-np.arange(len(piece)) / RATE / 0.03)
    return (0.2 * out).astype(np.float32)


def recordings(folder, make):
    """Eighteen seconds of an instrument, mono and stereo, in three formats and two rates, and what is of no use."""
    record(folder / "a.wav", make(8, 1), RATE)
    record(folder / "deep" / "b.flac", np.stack([make(6, 2), 0.5 * make(6, 2)], 1)[::2], RATE // 2)
    record(folder / "c.mp3", make(4, 3), RATE)
    record(folder / "hit.wav", make(0.05, 4), RATE)
    record(folder / "mute.wav", np.zeros(1000), RATE)
    (folder / "broken.mp3").write_text("not audio at all")


def deepsep(*words, cwd=None):
    """Runs the program itself to its end: (exit code, lines on stderr)."""
    process = program(*words, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    _, told = process.communicate(timeout=PATIENCE)
    return process.returncode, told.splitlines()


def run(*words):
    """The same within this process, for what ends before anything is trained."""
    result = CliRunner().invoke(app, [*map(str, words)])
    if isinstance(result.exception, DeepsepError):  # what main() prints
        return 1, [*result.stderr.splitlines(), f"error: {result.exception}"]
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stderr.splitlines()


def note_of(checkpoint):
    with safe_open(checkpoint, "pt") as file:
        return json.loads(file.metadata()["deepsep"])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    recordings(folder / "tones", tones)
    recordings(folder / "bursts", bursts)
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A priors folder with both instruments and an encoder, and what the program said."""
    out = tmp_path_factory.mktemp("priors")
    said = {}
    for source in ("tones", "bursts"):
        said[source] = deepsep(
            "train-prior", "--source", source, data / source, "-o", out, "--steps", 40, *FLOW
        )
    said["encoder"] = deepsep("train-encoder", "--priors", out, data, "--steps", 80, "--lr", 0.01, *NETWORK)
    return out, said


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One short recording, and a priors folder trained on it for two steps."""
    folder = tmp_path_factory.mktemp("small")
    record(folder / "data" / "a" / "a.wav", bursts(0.7, 1), RATE)
    code, told = run(
        "train-prior", "--source", "a", folder / "data" / "a", "-o", folder / "p", "--steps", 2, *TINY_FLOW
    )
    assert code == 0, told
    return folder


# -- what training is for ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_priors_and_encoder_separate_better_than_their_mean_spectra(trained, tmp_path):
    out, said = trained
    assert [code for code, _ in said.values()] == [0, 0, 0], said
    sources = {"tones": tones(4, 21), "bursts": bursts(4, 22)}
    for name, samples in [*sources.items(), ("mixture", sum(sources.values()))]:
        record(tmp_path / "song" / f"{name}.wav", samples, RATE)
    result = CliRunner().invoke(
        app, ["evaluate", str(tmp_path / "song"), "--priors", str(out), "--methods", "stationary", "--json"]
    )
    assert result.exit_code == 0, result.stderr
    floor = json.loads(result.stdout)["mean"]["stationary"]["sdr"]

    for name, words in (
        ("sgld", ("--method", "sgld", "--init", "mixture")),
        ("encoder", ("--method", "encoder")),
    ):
        to = tmp_path / name
        code, told = deepsep("separate", tmp_path / "song" / "mixture.wav", "--priors", out, "-o", to, *words)
        assert code == 0, told
        for source, samples in sources.items():
            stem = sf.read(to / "mixture" / f"{source}.wav", dtype="float32")[0]
            figure = metrics.sdr(samples[None], stem[None])
            print(f"{name} {source}: {figure:.2f} dB, mean spectra {floor[source]:.2f} dB")
            assert figure > floor[source] + 1, (name, source, figure, floor)


def test_what_was_trained_is_told_and_nothing_half_made_stays(trained, data):
    out, said = trained
    for source in ("tones", "bursts", "encoder"):
        lines = said[source][1]
        assert f"{out}/{source}.safetensors" in lines[-1] and "held out: " in lines[-1]
        assert sum("broken.mp3" in line for line in lines) == (2 if source == "encoder" else 1)
        assert any("is silent" in line for line in lines) and not any("Traceback" in line for line in lines)
    files = tree(out)
    assert not [name for name in files if "part" in name]
    caches = [name for name in files if name.startswith("training/cache/")]
    assert len(caches) == 8  # powers and samples of either source, each with its table
    config = json.loads((out / "config.json").read_text())
    assert config["priors"]["tones"]["data"]["folders"] == ["tones"]
    assert 0.004 <= config["priors"]["tones"]["data"]["hours"] <= 0.006  # not thrice for its three speeds
    assert set(config["priors"]["tones"]["held_out"]) == {f"bits/dim at {s}" for s in ("0.1", "0.3", "1")}
    assert {"SDR tones", "SDR bursts"} < set(config["encoder"]["simulated"])


@pytest.mark.slow
def test_a_prior_that_is_renewed_says_what_becomes_of_the_encoder(trained, data, tmp_path):
    out = tmp_path / "p"
    shutil.copytree(trained[0], out)
    before = (out / "encoder.safetensors").read_bytes()
    words = ("train-prior", "-o", out, *TINY_FLOW, "--steps", 1)
    code, told = run(*words, "--source", "tones", data / "tones", "--overwrite")
    assert code == 0 and any("train-encoder --priors" in line for line in told)
    assert (out / "encoder.safetensors").read_bytes() == before
    code, told = run(*words, "--source", "third", data / "tones")
    assert code == 0 and not any("train-encoder" in line for line in told)


def test_recordings_are_read_once_and_a_changed_folder_leaves_no_old_cache(tmp_path):
    folder = tmp_path / "data"
    record(folder / "a.wav", bursts(0.6, 1), RATE)
    words = ("train-prior", "--source", "a", folder, "-o", tmp_path / "p", *TINY_FLOW)
    assert run(*words, "--steps", 1)[0] == 0
    cache = tmp_path / "p" / "training" / "cache" / "a"
    first = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert run(*words, "--steps", 2, "--resume")[0] == 0
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == first
    record(folder / "b.wav", bursts(0.6, 2), RATE)
    code, told = run(*words, "--steps", 3, "--resume")
    assert code == 0 and any("others than before" in line for line in told)
    second = {path.name for path in cache.iterdir()}
    assert len(first) == len(second) == 2 and not second & set(first)


@pytest.mark.slow
def test_a_folder_given_twice_or_inside_another_is_heard_once(tmp_path):
    top = tmp_path / "data"
    record(top / "a.wav", bursts(0.6, 1), RATE)
    record(top / "in" / "b.wav", bursts(0.6, 2), RATE)
    for name, folders in (("once", [top]), ("twice", [top, top, top / "in", top / "in" / "b.wav"])):
        code, told = run(
            "train-prior", "--source", "a", *folders, "-o", tmp_path / name, "--steps", 1, *TINY_FLOW
        )
        assert code == 0, told
    sizes = [
        next((tmp_path / n / "training/cache/a").glob("*.bin")).stat().st_size for n in ("once", "twice")
    ]
    assert sizes[0] == sizes[1]


@pytest.mark.slow
def test_contrast_trains_copies_of_priors_on_together(trained, data, tmp_path):
    out, _ = trained
    words = ("--priors", out, data, "--batch", 2, "--frames", 16, "--workers", 0, "--lr", 1e-2)
    start = {path.name: path.read_bytes() for path in out.glob("*.*")}
    code, told = run("contrast-priors", *words, "-o", tmp_path / "p", "--steps", 3)
    assert code == 0, told
    assert f"{tmp_path}/p: 3 steps" in told[-1]
    assert "SDR tones" in told[-1]
    assert {path.name: path.read_bytes() for path in out.glob("*.*")} == start
    before, after = (json.loads((p / "config.json").read_text())["priors"] for p in (out, tmp_path / "p"))
    for source in ("tones", "bursts"):
        info = after[source]
        assert info["contrast"]["steps"] == 3
        assert info["training"] == before[source]["training"]
        assert set(info["held_out"]) == set(info["contrast"]["before"]) == set(before[source]["held_out"])
        assert info["held_out"] != info["contrast"]["before"]
    again = ("contrast-priors", *words, "-o", tmp_path / "p", "--steps", 5)
    code, told = run(*again)
    assert code == 1
    assert "holds priors; --resume goes on with them, --overwrite starts afresh" in told[-1]
    code, told = run(*again, "--resume")
    assert code == 0, told
    assert "5 steps" in told[-1]
    record(tmp_path / "song.wav", tones(1, 5) + bursts(1, 6), RATE)
    code, told = run("separate", tmp_path / "song.wav", "--priors", tmp_path / "p", "-o", tmp_path / "stems")
    assert code == 0, told


# -- stopping and going on ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_ctrl_c_saves_and_resume_goes_on(small, tmp_path):
    data = small / "data" / "a"
    words = ("train-prior", "--source", "a", data, "-o", tmp_path / "p", *TINY_FLOW)
    process = program(*words, stderr=subprocess.PIPE, text=True)
    assert "reading" in process.stderr.readline()
    assert "step 1 " in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert re.fullmatch(r"interrupted at step \d+; saved to \S+, go on with --resume\n", told)
    step = int(re.search(r"step (\d+)", told)[1])
    checkpoint = tmp_path / "p" / "training" / "a.safetensors"
    assert note_of(checkpoint)["step"] == step >= 1
    assert "a.safetensors" in tree(tmp_path / "p")
    assert not [name for name in tree(tmp_path) if "part" in name]

    code, told = run(*words, "--resume", "--steps", step + 2)
    assert code == 0 and f": {step + 2} steps; held out" in told[-1]
    assert f"step {step + 1} " in told[-2]
    assert note_of(checkpoint)["step"] == step + 2


@pytest.mark.slow
def test_ctrl_c_with_worker_processes_alive_is_one_line(trained, data, tmp_path):
    """As a terminal does it: the signal goes to every process of the group."""
    out = tmp_path / "p"
    shutil.copytree(trained[0], out)
    words = ["--priors", out, data, *TINY_NETWORK[:-1], 1, "--overwrite"]
    process = program("train-encoder", *words, stderr=subprocess.PIPE, text=True)
    lines = []
    while not lines or "step 1 " not in lines[-1]:
        lines.append(process.stderr.readline())
        assert lines[-1], lines
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    line = r"interrupted at step \d+; saved to \S+, go on with --resume; what it replaced stays in \S+ until it is done"
    assert re.fullmatch(line, told.rstrip("\n"))
    assert {"encoder.safetensors", "training/encoder.safetensors"} < set(
        tree(out / "training/former-encoder")
    )
    until(lambda: not is_there(process.pid))  # no worker is left


@pytest.mark.slow
def test_ctrl_c_while_recordings_are_read_leaves_nothing(tmp_path):
    first = record(tmp_path / "data" / "0.flac", bursts(20, 0)[:, None].repeat(2, 1), RATE)
    for i in range(1, 60):
        (tmp_path / "data" / f"{i}.flac").write_bytes(first.read_bytes())
    process = program(
        "train-prior",
        "--source",
        "a",
        tmp_path / "data",
        "-o",
        tmp_path / "p",
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "reading recordings 0/60" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert told.count("\n") == 1 and told.startswith("interrupted before the first step")
    assert not (tmp_path / "p").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_a_checkpoint_is_written_waits_for_it(number, code, small, tmp_path, monkeypatch):
    """The file and the config that names it are both whole, and what had been asked for happens then."""
    written = []
    save = training.save_file

    def slow(tensors, path, **more):
        save(tensors, path, **more)
        os.kill(os.getpid(), number)
        written.append(path)

    monkeypatch.setattr(training, "save_file", slow)
    words = (
        "train-prior",
        "--source",
        "a",
        small / "data" / "a",
        "-o",
        tmp_path / "p",
        "--steps",
        1,
        *TINY_FLOW,
    )
    exit_code, told = run(*words)
    assert exit_code == code and written
    assert note_of(tmp_path / "p" / "training" / "a.safetensors")["step"] == 1
    assert not [name for name in tree(tmp_path) if "part" in name]
    assert not any("Traceback" in line for line in told)


# -- what is wrong is one line -----------------------------------------------------------------------------


@pytest.fixture
def wrong(small, tmp_path):
    """Folders that are of no use."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    record(tmp_path / "mute" / "a.wav", np.zeros(5000), RATE)
    record(tmp_path / "tiny" / "a.wav", bursts(1, 1)[2500:2800], RATE)
    record(tmp_path / "nan" / "a.wav", np.full(5000, np.nan), RATE)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.mp3").write_text("no audio")
    return tmp_path


@pytest.mark.parametrize(
    "code, said, words",
    [
        (1, "no audio files", "{wrong}/empty"),
        (1, "no such folder", "{wrong}/nowhere"),
        (1, "silent", "{wrong}/mute"),
        (1, "too short", "{wrong}/tiny"),
        (1, "NaN", "{wrong}/nan"),
        (1, "no audio found", "{wrong}/text"),
        (1, "cannot name a source", "{good} --source ../a"),
        (1, "cannot name a source", "{good} --source encoder"),
        (1, "cannot be written", "{good} -o {wrong}/file"),
        (1, "cannot be written", "{good} -o {wrong}/file/below"),
        (1, "no checkpoint", "{good} --resume"),
        (1, "has been trained there", "{good} -o {small}/p"),
        (1, "flow steps 1 there, 2 here", "{good} -o {small}/p --resume --flow-steps 2"),
        (2, "more than 0", "{good} --minutes 0"),
        (2, "more than 0", "{good} --lr 0"),
    ],
)
def test_a_prior_that_cannot_be_trained_is_one_line(code, said, words, small, wrong):
    before = tree(small)
    words = words.format(wrong=wrong, small=small, good=small / "data" / "a").split()
    defaults = ["--source", "a", "-o", wrong / "new", "--steps", 2, *TINY_FLOW]
    result, told = run("train-prior", *defaults, *words)
    assert result == code
    told = [line for line in told if "reading recordings" not in line]
    assert len(told) == 1 and said in told[0], told
    assert tree(small) == before
    left = tree(wrong / "new") if (wrong / "new").exists() else []
    assert all(name.startswith("training/cache/") for name in left) and (not left or said == "too short")


def test_priors_of_another_spectrum_are_refused_before_anything_is_read(small, tmp_path):
    config = json.loads((small / "p" / "config.json").read_text())
    config["spectrum"]["n_fft"] = 2048
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, told = run("train-prior", "--source", "b", small / "data" / "a", "-o", tmp_path, *TINY_FLOW)
    assert code == 1 and len(told) == 1 and "another domain, spectrum, rate or level" in told[0]


@pytest.mark.parametrize(
    "code, said, words",
    [
        (1, "no subfolder named after a source", "{small}"),
        (1, "no recordings of", "tones={data}/tones"),
        (1, "unknown source 'voice'", "{data} voice={data}/tones"),
        (1, "unknown source 'tones+voice'", "{data} tones+voice={data}/tones"),
        (1, "a set must name some of", "{data} tones+bursts={data}/tones"),
        (1, "a set must name some of", "{data} tones+tones={data}/tones"),
        (1, "no layer of this one's shape", "{data} --init bundled"),
        (1, "no such folder", "{wrong}/nowhere"),
        (1, "no audio files", "tones={wrong}/empty bursts={data}/bursts"),
        (1, "no audio files", "{data} --mixtures {wrong}/empty"),
        (1, "no checkpoint", "{data} --priors {small}/p --resume"),
        (1, "widths [8, 16] there, [4, 4] here", "{data} --resume"),
        (1, "has been trained there", "{data}"),
        (1, "not a priors folder", "{data} --priors {wrong}/nowhere"),
        (2, "multiple of 4", "{data} --frames 17"),
        (2, "--mixtures", "{data} --objective simulated --mixtures {data}"),
        (2, "give --mixtures", "{data} --objective remix"),
        (2, "--widths", "{data} --widths a,b"),
        (2, "--widths", "{data} --widths 0"),
    ],
)
def test_an_encoder_that_cannot_be_trained_is_one_line(code, said, words, small, wrong, trained, data):
    before = tree(trained[0])
    if "{small}/p" in words:
        words = words.replace("{data}", "{small}/data")
    words = words.format(wrong=wrong, small=small, data=data).split()
    overwrite = [] if "resume" in words or said == "has been trained there" else ["--overwrite"]
    result, told = run("train-encoder", "--priors", trained[0], *overwrite, *TINY_NETWORK, *words)
    assert result == code, told
    assert len(told) == 1 and said in told[0], told
    assert tree(trained[0]) == before


def test_records_of_several_sources_train_an_encoder_that_starts_from_another(tmp_path):
    priors = folder_of(tmp_path / "priors", *FOUR)
    for i, name in enumerate((*FOUR, "other+bass+drums")):
        record(tmp_path / "data" / name / "a.wav", noise(3, seed=i))
    (tmp_path / "data" / "notes+drums").mkdir()
    (tmp_path / "data" / "drums").rename(tmp_path / "data" / "Drums")
    words = (
        "train-encoder",
        "--priors",
        priors,
        tmp_path / "data",
        "--workers",
        0,
        "--batch",
        2,
        "--set-share",
        0.5,
    )
    shape = ("--widths", 4, "--bottleneck", 2, "--deep", 0, "--frames", 8)
    code, told = run(*words, *shape, "--steps", 2)
    assert code == 0, told
    assert any("not used" in line and line.endswith(": notes+drums") for line in told), told
    figures = json.loads((priors / "config.json").read_text())["encoder"]["simulated"]
    assert {"SDR", "SDR with sets", "SDR vocals"} <= set(figures)
    again = folder_of(tmp_path / "again", *FOUR)
    code, told = run(*words[:2], again, *words[3:], *shape, "--steps", 1, "--init", again)
    assert code == 1 and "has no encoder to start from" in told[0], told
    small = ("--frames", 8, "--steps", 1, "--lr", 1e-9)
    code, told = run(*words[:2], again, *words[3:], *small, "--init", priors)
    assert code == 0, told
    shapes = [
        json.loads((folder / "config.json").read_text())["encoder"]["network"] for folder in (priors, again)
    ]
    assert shapes[0] == shapes[1]
    first, second = (load_file(folder / "encoder.safetensors") for folder in (priors, again))
    learnt = [name for name in first if not name.endswith(("running_mean", "running_var", "batches_tracked"))]
    assert learnt
    for name in learnt:
        assert np.allclose(first[name], second[name], atol=1e-3), name
    code, told = run("contrast-priors", "--priors", priors, tmp_path / "data", "-o", tmp_path / "out", "--steps", 1,
                     "--workers", 0, "--frames", 8, "--batch", 2)  # fmt: skip
    assert code == 0, told
    assert not any("other+bass+drums" in line for line in told), told


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("holds the priors to start from", ("--priors", "TRAINED", "DATA", "-o", "TRAINED")),
        ("no recordings of bursts", ("--priors", "TRAINED", "tones=DATA/tones", "-o", "new")),
        ("has one prior", ("--priors", "SMALL/p", "SMALL/data", "-o", "new")),
        ("of another domain, spectrum", ("--priors", "TRAINED", "DATA", "-o", "OTHER", "--overwrite")),
    ],
)
def test_priors_that_cannot_be_contrasted_are_one_line(
    said, words, small, trained, data, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    other = folder_of(tmp_path / "other", "hum")
    places = {"TRAINED": str(trained[0]), "DATA": str(data), "SMALL": str(small), "OTHER": str(other)}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    code, told = run("contrast-priors", *words, "--steps", 1)
    assert code == 1
    assert said in told[-1]
    assert not (tmp_path / "new").exists()

"""What the program is run in: names that are no text, closed streams, full disks, foreign settings, odd moments."""

import errno
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from cli_fixtures import FOUR, noise, program, record, tree
from processes import PATIENCE, until
from tiny import SPECTRUM, folder_of

import deepsep as library

PIPE = subprocess.PIPE
SMALL = ("--flow-steps", 1, "--hidden", 4, "--layers", 1, "--frames", 16, "--batch", 2, "--steps", 1, "-q")
SMALL_NET = ("--widths", 4, "--deep", 0, "--workers", 0, "--frames", 16, "--batch", 2, "--steps", 1, "-q")
LONG = "x" * 300

posix = pytest.mark.skipif(os.name != "posix", reason="such names and streams are of POSIX systems")
full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


@pytest.fixture
def named_in_bytes(tmp_path, monkeypatch):
    """A folder of recordings whose names are not UTF-8, below the current one."""
    monkeypatch.chdir(tmp_path)
    names = [os.fsdecode(b"hum\xff"), "hiss"]
    for i, name in enumerate(names):
        record(Path("a.wav"), noise(2, 1, SPECTRUM.rate, seed=i), SPECTRUM.rate)
        try:
            Path("data", name).mkdir(parents=True)
            Path("a.wav").rename(Path("data", name, os.fsdecode(b"\xe9.wav")))
        except OSError:
            pytest.skip("this file system takes no such names")
    return names


@posix
def test_names_that_are_not_utf_8_train(named_in_bytes, deepsep):
    odd, other = (Path("data", name) for name in named_in_bytes)
    deepsep.good("train-prior", "--source", "hum", odd, "-o", "p", *SMALL)
    assert "hum?" in Path("p/config.json").read_text()
    deepsep.good("train-prior", "--source", "hum", odd, "-o", "p", *SMALL, "--resume", "--steps", 2)
    deepsep.good("train-prior", "--source", "hiss", other, "-o", "p", *SMALL)
    deepsep.good("train-encoder", "--priors", "p", f"hum={odd}", f"hiss={other}", *SMALL_NET)
    assert library.load_priors("p").sources == ["hum", "hiss"]


@posix
def test_a_name_that_is_not_utf_8_separates(named_in_bytes, deepsep, priors):
    song = Path("data", named_in_bytes[0], os.fsdecode(b"\xe9.wav"))
    deepsep.good("separate", "--priors", priors, song, "-o", "out", "-q")
    assert tree(Path("out")) == sorted(os.fsdecode(b"\xe9") + f"/{source}.wav" for source in FOUR)


@posix
@pytest.mark.slow
@pytest.mark.parametrize("closed", [(0,), (2,), (0, 1, 2)])
def test_closed_streams_do_no_harm(closed, priors, tmp_path):
    """The files that are opened next would be taken for them."""
    record(tmp_path / "song.wav")
    words = f"{sys.executable} -m deepsep separate --priors '{priors}' song.wav -o out --report"
    ends = " ".join(f"{number}>&-" if number else "<&-" for number in closed)
    run = subprocess.Popen(["sh", "-c", f"{words} {ends}"], cwd=tmp_path, stdout=PIPE, stderr=PIPE, text=True)
    _, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0 and "Traceback" not in err, err
    assert tree(tmp_path / "out") == sorted(
        f"song/{name}" for name in (*(f"{source}.wav" for source in FOUR), "report.html")
    )


@posix
def test_a_closed_stdin_holds_no_song(priors, tmp_path):
    words = f"{sys.executable} -m deepsep separate --priors '{priors}' - <&-"
    done = subprocess.run(["sh", "-c", words], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert "is empty" in done.stderr


@full
@pytest.mark.parametrize("words", [("--version",), ("sample", "--help"), ("priors", "path", "{priors}")])
def test_a_full_disk_below_stdout_is_one_line(words, priors):
    with open("/dev/full", "w") as stdout:
        run = program(*(word.format(priors=priors) for word in words), stdout=stdout, stderr=PIPE, text=True)
        err = run.communicate(timeout=PATIENCE)[1]
    assert (run.returncode, err.count("\n")) == (1, 1), err
    assert err.startswith("error: ") and "No space left" in err


@full
@pytest.mark.slow
def test_a_full_disk_below_stderr_costs_no_song(priors, tmp_path):
    record(tmp_path / "song.wav")
    with open("/dev/full", "w") as stderr:
        run = program("separate", "--priors", priors, "song.wav", "-o", "out", cwd=tmp_path, stderr=stderr)
        assert run.wait(PATIENCE) == 0
    assert tree(tmp_path / "out") == sorted(f"song/{source}.wav" for source in FOUR)


@pytest.fixture
def piped(tmp_path, monkeypatch):
    """A song on stdin."""
    song = record(tmp_path / "song.flac").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(song)))


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (tempfile, "gettempdir", FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")),
        (shutil, "copyfileobj", OSError(28, "No space left on device")),
        (os, "mkdir", PermissionError(13, "Permission denied")),
    ],
)
def test_without_room_for_stdin_there_is_one_line(owner, name, error, piped, deepsep, priors, monkeypatch):
    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        line = deepsep.bad("separate", "--priors", priors, "-", "-o", "out")
    assert "stdin cannot be kept in a temporary file" in line and line.endswith("; set TMPDIR\n")
    assert not Path("out").exists()


@pytest.mark.slow
def test_the_plots_of_a_notebook_are_none_of_ours(priors, tmp_path, monkeypatch):
    """Its variable is handed down to every program that is started there, also to those that lack its modules."""
    pytest.importorskip("matplotlib")
    record(tmp_path / "song.wav")
    monkeypatch.setenv("MPLBACKEND", "module://nowhere.to_be_found.inline")
    words = ("separate", "--priors", priors, "song.wav", "-o", "out", "--uncertainty")
    run = program(*words, cwd=tmp_path, stderr=PIPE, text=True)
    err = run.communicate(timeout=PATIENCE)[1]
    assert run.returncode == 0 and err.count("\n") == 1, err
    assert "song/uncertainty.png" in tree(tmp_path / "out")


PLACES = {
    "separate": "separate song.wav --priors p -o {}",
    "sample": "sample --source hum --priors p --seconds 0.5 -o {}/a.wav",
    "toy": "toy {}",
    "train-prior": "train-prior --source a data/hum -o {} --steps 1",
    "contrast-priors": "contrast-priors --priors p data -o {} --steps 1",
    "train-encoder": "train-encoder --priors {} data --steps 1",
    "evaluate": "evaluate {} --priors p",
}


@pytest.mark.parametrize("command", PLACES)
@pytest.mark.parametrize("place", [LONG, "song.wav/below"], ids=["too long", "below a file"])
def test_a_place_that_cannot_be_is_one_line(place, command, deepsep):
    record(Path("song.wav"))
    folder_of(Path("p"), "hum", "hiss")
    for i, name in enumerate(("hum", "hiss")):
        record(Path("data", name, "a.wav"), noise(2, 1, SPECTRUM.rate, seed=i), SPECTRUM.rate)
    before = tree(Path())
    code, out, err = deepsep(
        *PLACES[command].format(place).split(), *(["-q"] if command != "evaluate" else [])
    )
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert err.startswith("error: ") and ("xxxxx" in err or "song.wav" in err)
    assert err.count("; ") == 1, "what to do"
    assert tree(Path()) == before


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EROFS, "choose another place"),
        (errno.ENOSPC, "make room there"),
        (errno.EFBIG, "raise the limit"),
    ],
)
def test_a_folder_that_takes_none_is_one_line_that_says_what_to_do(number, advice, deepsep, monkeypatch):
    folder_of(Path("p"), "hum")
    with monkeypatch.context() as patch:

        def fail(path, *_, **__):
            raise OSError(number, os.strerror(number), path)

        patch.setattr(os, "mkdir", fail)
        line = deepsep.bad(*PLACES["sample"].format("x").split(), "-q")
    assert re.fullmatch(rf"error: \S*x: cannot be created \({os.strerror(number)}\); .*{advice}.*\n", line), (
        line
    )


@posix
def test_a_limit_on_the_size_of_files_is_one_line_that_says_what_to_do(deepsep):
    resource = pytest.importorskip("resource")
    record(Path("data", "a.wav"), noise(2, 1, SPECTRUM.rate), SPECTRUM.rate)
    words = ("train-prior", "--source", "third", "data", "-o", "p", *SMALL)

    def limited(*more):
        former = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, former[1]))
        try:
            return deepsep.bad(*words, *more)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, former)

    advice = r"cannot be written \(File too large\); raise the limit .*\n"
    assert re.fullmatch(rf"error: p/training/cache/third: {advice}", line := limited()), line
    deepsep.good(*words)
    line = limited("--overwrite")
    assert re.fullmatch(rf"error: p/training/third.safetensors: {advice}", line), line


INTERRUPT = """
import os, signal, sys
module = sys.argv.pop(1)
class Finder:
    def find_spec(self, name, *_):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from deepsep.__main__ import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("module", ["typer", "numpy.matrixlib", "torch.nn"])
def test_ctrl_c_while_modules_load_is_no_traceback(module, tmp_path):
    """A library that is interrupted halfway fails with errors of its own: torch, while it looks for numpy."""
    record(tmp_path / "data" / "a.wav")
    words = ("train-prior", "--source", "a", "data", "-o", "p", *map(str, SMALL))
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPT, module, *words],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr[-500:]
    # the interrupt waits for the modules, and may then meet the first of the work
    assert "saved" in done.stderr or not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux to find the process")
def test_a_killed_worker_of_a_training_is_one_line(tmp_path):
    folder_of(tmp_path / "p", "hum", "hiss")
    for i, name in enumerate(("hum", "hiss")):
        record(tmp_path / "data" / name / "a.wav", noise(2, 1, SPECTRUM.rate, seed=i), SPECTRUM.rate)
    words = ("train-encoder", "--priors", "p", "data", *SMALL_NET[:-3], "--workers", 1, "--steps", 10**6)
    run = program(*words, cwd=tmp_path, stderr=PIPE, text=True)
    until(lambda: "step 1 " in run.stderr.readline(), run)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    worker = next(pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(int(worker), signal.SIGKILL)
    err = run.communicate(timeout=PATIENCE)[1]
    assert run.returncode == 1
    assert err.startswith("error: a process that simulates mixtures was ended") and err.count("\n") == 1


SAYS_SO = {  # each in a working folder that has been removed, where importing PyTorch ends the process
    "doctor": (0, "- the working folder has been removed; change to another\n", ""),
    "priors path {priors}": (0, "{priors}\n", ""),
    "sample --help": (0, "", ""),
    **dict.fromkeys(
        (
            "separate {song} -o {out}",
            "sample --source vocals --priors {priors} -o {out}/a.wav",
            "toy {out}",
            "train-prior --source a {out} -o {out}",
            "evaluate {out} --priors {priors}",
            "priors licence {priors} MIT",
        ),
        (1, "", "error: the working folder has been removed; change to another\n"),
    ),
}


@posix
@pytest.mark.parametrize("words", SAYS_SO)
def test_a_working_folder_that_is_gone_is_one_line(words, priors, tmp_path):
    song = record(tmp_path / "song.wav")
    gone, places = tmp_path / "gone", {"priors": priors, "song": song, "out": tmp_path / "out"}
    gone.mkdir()
    command = "import os, runpy, sys; os.rmdir(os.getcwd()); runpy.run_module('deepsep', run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": str(Path(library.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", command, *words.format(**places).split()],
        cwd=gone, env=environment, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    code, out, err = SAYS_SO[words]
    assert (done.returncode, done.stderr) == (code, err)
    assert out.format(**places) in done.stdout and bool(done.stdout) == (code == 0)
    assert not (tmp_path / "out").exists()

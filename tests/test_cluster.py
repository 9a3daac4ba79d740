"""Songs on a Ray cluster: every song once, whatever becomes of the workers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cli_fixtures import noise, program, read, record, tree

from deepsep.cli.batch import Batch
from deepsep.cli.cluster import TRIES, Order, Pool
from deepsep.cli.command import with_values
from deepsep.errors import DeepsepError
from deepsep.output.paths import Job, Output


class RayError(Exception):
    """What all of Ray's errors are."""


class Died(RayError):
    """A worker is gone."""


class Failed(RayError):
    """A worker's method raised `cause`."""

    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


class Ray:
    """The little of Ray that a pool uses, in this process: `work(track)` gives a worker's answer, or raises."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=Failed)

    def __init__(self, work, prepare=lambda: None, machines=({"CPU": 2.0},)):
        self.work, self.ready, self.machines = work, prepare, machines
        self.started, self.asked, self.now = 0, {}, 0

    def nodes(self):
        gone = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        return [gone, *({"Alive": True, "Resources": machine} for machine in self.machines)]

    def remote(self, kind):
        return self

    def options(self, **share):
        self.share = share
        return SimpleNamespace(remote=self.start)

    def start(self, order):
        self.started, self.order = self.started + 1, order
        prepare = SimpleNamespace(remote=lambda: self.ask(self.ready))
        return SimpleNamespace(
            prepare=prepare, separate=SimpleNamespace(remote=lambda job: self.ask(self.work, job.label))
        )

    def ask(self, function, *words):
        self.now += 1
        self.asked[self.now] = (function, words)
        return self.now

    def wait(self, references, timeout):
        return references[:1], references[1:]

    def get(self, reference):
        function, words = self.asked.pop(reference)
        return function(*words)


def pool(ray, count=5, **changes):
    """A pool with songs "0", "1"... and the batch that hears of them."""
    jobs = [Job(Path(f"{n}.wav"), {}, {}, str(n)) for n in range(count)]
    order = {
        "priors": "bundled", "replaced": {}, "sources": None, "offline": True, "settings": {}, "claims": None,
        "output": Output(folder=Path("out"), stems={}), "log": None, "device": "auto", "threads": 1, **changes,
    }  # fmt: skip
    batch = Batch(quiet=True)
    return Pool(ray, batch, jobs, Order(**order)), batch


def done(label):
    return SimpleNamespace(source=label)


def test_every_song_is_done_once():
    ray = Ray(done)
    run, batch = pool(ray)
    run.run()
    assert sorted(result.source for result in batch.done) == ["0", "1", "2", "3", "4"]
    assert (ray.started, ray.share, ray.order.device) == (2, {"num_cpus": 1, "num_gpus": 0}, "cpu")


@pytest.mark.parametrize("death", [Died, RayError])  # Ray has an error of its own for what it ends for memory
@pytest.mark.parametrize("deaths", [1, TRIES - 1])
def test_a_song_whose_worker_dies_goes_to_another(deaths, death):
    left = [deaths]

    def work(label):
        if label == "2" and left[0]:
            left[0] -= 1
            raise death
        return done(label)

    ray = Ray(work)
    run, batch = pool(ray)
    run.run()
    assert sorted(result.source for result in batch.done) == ["0", "1", "2", "3", "4"] and not batch.failed
    assert ray.started == 2 + deaths


def test_a_song_that_was_finished_as_its_worker_died_is_left_out():
    left = [1]

    def work(label):
        if label == "2" and left[0]:
            left[0] -= 1
            raise Died
        return None if label == "2" else done(label)

    run, batch = pool(Ray(work))
    run.run()
    assert (len(batch.done), batch.skipped, batch.taken) == (4, 1, 0)


def test_a_song_that_kills_every_worker_is_given_up_and_takes_no_other_with_it(capsys):
    def work(label):
        if label == "2":
            raise Died
        return done(label)

    run, batch = pool(Ray(work))
    run.run()
    assert sorted(result.source for result in batch.done) == ["0", "1", "3", "4"]
    assert [row["source"] for row in batch.failed] == ["2"]
    assert "2: 3 workers died at it" in capsys.readouterr().err


def test_what_goes_wrong_with_a_song_is_a_line_and_no_end(capsys):
    answers = {"1": "1: no such file", "3": None}

    def work(label):
        if label == "4":
            raise Failed(ZeroDivisionError("by zero"))
        return answers[label] if label in answers else done(label)

    run, batch = pool(Ray(work))
    run.run()
    assert sorted(result.source for result in batch.done) == ["0", "2"] and batch.taken == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: 1: no such file", "error: 4: ZeroDivisionError: by zero",
    ]  # fmt: skip


def test_workers_that_cannot_start_end_the_run():
    def prepare():
        raise Failed(DeepsepError("no priors at './nowhere'"))

    with pytest.raises(DeepsepError, match="a worker cannot start: no priors at"):
        pool(Ray(done, prepare))[0].run()

    def die():
        raise Died

    with pytest.raises(DeepsepError, match="workers die as they start"):
        pool(Ray(done, die))[0].run()


@pytest.mark.parametrize(
    ("machines", "changes", "workers", "device"),
    [
        ([{"CPU": 16.0, "GPU": 3.0}], {}, 3, "cuda"),
        ([{"CPU": 16.0, "GPU": 3.0}], {"device": "cpu", "threads": 4}, 4, "cpu"),
        ([{"CPU": 64.0}], {}, 5, "cpu"),
        ([{"CPU": 6.0}, {"CPU": 3.0}, {"CPU": 5.0}], {"threads": 4}, 2, "cpu"),
        ([{"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0}], {}, 1, "cuda"),
    ],
)
def test_a_worker_for_each_share_of_a_machine(machines, changes, workers, device):
    ray = Ray(done, machines=machines)
    run, _ = pool(ray, **changes)
    run.run()
    assert (ray.started, ray.order.device) == (workers, device)


def test_a_cluster_without_what_is_asked_for():
    """Ray would wait for such a machine for ever."""
    with pytest.raises(DeepsepError, match="no GPU; use --device cpu"):
        pool(Ray(done), device="cuda")
    with pytest.raises(DeepsepError, match="no machine of the cluster has 4 CPUs; use a lower --threads"):
        pool(Ray(done, machines=[{"CPU": 2.0}, {"CPU": 3.0}]), threads=4)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("lib --ray", "lib --ray auto"),
        ("--ray lib", "--ray auto lib"),
        ("--ray -r lib", "--ray auto -r lib"),
        ("--ray head:6379 lib", "--ray head:6379 lib"),
        ("--ray ray://head:10001 lib", "--ray ray://head:10001 lib"),
        ("--ray local lib", "--ray local lib"),
        ("--ray -- local", "--ray auto -- local"),
        ("--ray=head:1 lib", "--ray=head:1 lib"),
        ("-- --ray", "-- --ray"),
    ],
)
def test_the_address_may_be_left_out(typed, read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert with_values(typed.split()) == read.split()


@pytest.mark.parametrize("words", [("-", "--ray"), ("a.wav", "--ray", "--device", "cuda:1")])
def test_what_a_cluster_cannot_do_is_wrong_usage(words, deepsep):
    code, out, err = deepsep("separate", *words)
    assert (code, out) == (2, "") and "--ray separates files" in err and err.count("\n") == 1


def test_without_ray_the_extra_is_named(deepsep, priors, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    record(Path("a.wav"))
    line = deepsep.bad("separate", "a.wav", "--priors", priors, "-o", "out", "--ray", "-q")
    assert 'pip install "deepsep[ray]"' in line


def test_a_cluster_that_is_not_there_is_a_line(deepsep, priors, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(__spec__="found"))
    record(Path("a.wav"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    words = ("separate", "a.wav", "--priors", priors, "-o", "out", "--ray", f"127.0.0.1:{port}", "-q")
    assert f"--ray 127.0.0.1:{port}: no cluster can be reached" in deepsep.bad(*words)


# --- a real cluster, on this machine


@pytest.mark.slow  # Ray's processes take 10 s to start
def test_a_killed_worker_costs_nothing_but_time(priors, tmp_path):
    pytest.importorskip("ray", reason="deepsep[ray] is not installed")
    names = [f"songs/{number % 4}/{number}.wav" for number in range(60)]
    for number, name in enumerate(names):
        record(tmp_path / name, noise(0.5, seed=number))
    words = ("separate", "songs", "-r", "--priors", priors, "--stems", "vocals,bass")
    alone = program(*words, "-o", "alone", "-q", cwd=tmp_path)
    assert alone.wait(timeout=120) == 0
    log = tmp_path / "log.jsonl"
    more = ("-o", "out", "--ray", "local", "--log", "log.jsonl", "--json")
    run = program(*words, *more, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while run.poll() is None and not (log.exists() and log.read_text().count("\n") >= 5):
        time.sleep(0.02)
    assert run.poll() is None, "nothing was left to do when the worker was to be killed"
    os.kill(json.loads(log.read_text().splitlines()[4])["pid"], signal.SIGKILL)
    told = json.loads(run.communicate(timeout=120)[0])
    assert run.returncode == 0
    summary = [row["source"] for row in told["done"]]
    assert len(summary) == len(set(summary)) and len(summary) + told["skipped"] == 60
    assert (told["failed"], told["taken"]) == ([], 0)
    assert told["skipped"] <= 1, "only a song that was finished as its worker died is not done here"
    rows = [json.loads(line)["source"] for line in log.read_text().splitlines()]
    assert len(rows) == len(set(rows)) >= 59 and set(rows) <= set(names)
    assert tree(tmp_path / "out") == tree(tmp_path / "alone")
    for path in tree(tmp_path / "out"):
        np.testing.assert_array_equal(read(tmp_path / "out" / path), read(tmp_path / "alone" / path))
    again = program(*words, *more, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    told = json.loads(again.communicate(timeout=120)[0])
    assert (again.returncode, told["done"], told["skipped"]) == (0, [], 60)

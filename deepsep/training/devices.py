"""Where a training runs: on which device, in which precision, in how many processes (torchrun)."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from ..config import Start, TrainConfig
from ..errors import DeepsepError
from ..inference.compute import Compute, bfloat16_pays
from ..inference.settings import pick_device
from ..progress import Listener
from .checkpoint import is_written_by

__all__ = ["computing", "lead_first", "quiet_unless_leading", "start_or_resume"]

PRECISIONS = (None, torch.bfloat16, torch.float16)


@contextmanager
def computing(training: TrainConfig, listener: Listener) -> Iterator[Compute]:
    """Settle where a training computes; started by torchrun, join its other processes within the block.

    Raises DeepsepError for a device that is not there, and for one that several processes cannot share.
    """
    part, parts = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    name = pick_device(training.device)
    if name == "cuda" and parts > 1:
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    if name == "mps" and parts > 1:
        raise DeepsepError(
            "several processes cannot train on mps; add --device cpu, or start one without torchrun"
        )
    device = torch.device(name)
    run = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if not run and parts == 1:
        yield Compute(device, precision(device, training, listener))
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, _, _ = next(distributed.rendezvous("env://"))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # it lives as long as torchrun
        run += " " + store.compare_set("deepsep/run", "", uuid.uuid4().hex).decode()
        # a restart must not find the addresses of the processes before it
        store = distributed.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(
        backend, store=store, rank=part, world_size=parts, timeout=timedelta(days=1)
    )  # the others wait while the first reads the recordings
    try:
        dtype = precision_for_all(device, training, listener)
        yield Compute(device, dtype, part, parts, run, again=started_again(device))
        distributed.barrier()  # who leaves while another still talks to it may be aborted
    finally:
        distributed.destroy_process_group()


def precision_for_all(device: torch.device, training: TrainConfig, listener: Listener) -> torch.dtype | None:
    """The leading process's `precision`: each might time it otherwise."""
    chosen = precision(device, training, listener) if distributed.get_rank() == 0 else None
    told = torch.tensor(PRECISIONS.index(chosen), device=device)
    distributed.broadcast(told, 0)
    return PRECISIONS[int(told)]


def started_again(device: torch.device) -> bool:
    """Whether torchrun has restarted this training; it counts that only on the machine where a process has died."""
    most = torch.tensor(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)), device=device)
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return bool(most)


def precision(device: torch.device, training: TrainConfig, listener: Listener) -> torch.dtype | None:
    """The reduced precision that pays on a device, unless it is unwanted; None for single precision."""
    asked = training.bf16
    if asked is False or (asked is None and device.type == "mps"):
        return None
    if device.type == "cpu" and not bfloat16_pays():
        if asked and listener.note:
            listener.note("bfloat16 is slower on this CPU: training in single precision")
        return None
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


@contextmanager
def lead_first(compute: Compute) -> Iterator[None]:
    """The block runs in the leading process first, then in the others, which find what it made."""
    if compute.parts > 1 and not compute.leads:
        distributed.barrier()
    yield
    if compute.parts > 1 and compute.leads:
        distributed.barrier()


def quiet_unless_leading(listener: Listener, compute: Compute) -> Listener:
    """What this process tells: all of it, or nothing."""
    return listener if compute.leads else replace(listener, files=None, note=None, step=None)


def start_or_resume(start: Start, checkpoint: Path, compute: Compute) -> Start:
    """How to start: torchrun runs the same command again after a process has died.

    Then the run goes on from its own checkpoint, but not from one of the training that it is to replace.
    """
    return "resume" if compute.again and is_written_by(checkpoint, compute.run) else start

"""Where a training runs: on which device, in which precision, in how many processes (torchrun)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import distributed

from ..config import Start, TrainConfig
from ..inference.compute import Compute, bfloat16_pays
from ..inference.settings import pick_device
from ..progress import Listener

__all__ = ["computing", "lead_first", "quiet_unless_leading", "start_or_resume"]


@contextmanager
def computing(training: TrainConfig, listener: Listener) -> Iterator[Compute]:
    """Settle where a training computes; started by torchrun, join its other processes within the block.

    Raises DeepsepError for a device that is not there.
    """
    part, parts = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    name = pick_device(training.device)
    if name == "cuda" and parts > 1:
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    device = torch.device(name)
    compute = Compute(device, precision(device, training, listener), part, parts)
    if parts == 1:
        yield compute
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    # a restart must not find the addresses of the processes before it
    store, _, _ = next(distributed.rendezvous("env://"))
    store = distributed.PrefixStore(f"start-{restarts()}", store)
    distributed.init_process_group(backend, store=store, rank=part, world_size=parts)
    try:
        yield compute
        distributed.barrier()  # who leaves while another still talks to it may be aborted
    finally:
        distributed.destroy_process_group()


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


def start_or_resume(start: Start, checkpoint: Path) -> Start:
    """How to start: torchrun runs the same command again after a process has died, and then the run goes on."""
    return "resume" if restarts() and checkpoint.exists() else start


def restarts() -> int:
    """How often torchrun has started this training again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))

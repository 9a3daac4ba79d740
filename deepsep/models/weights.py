"""Weights files: what their headers state is compared with the network before anything is allocated for it.

A network whose shape comes from a file is first built without memory, on PyTorch's meta device. So no more is ever
allocated than there is in the file of weights, whatever config.json says.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..config import shorten
from ..errors import DeepsepError

__all__ = ["check_stated", "check_values", "load_weights", "open_weights", "read_stated"]

LONGEST_HEADER = 4 * 1024**2  # bytes; of ten thousands of tensors
LARGEST = 65504.0  # of any weight: what half precision holds
LARGEST_OF = {"log_scale": 30.0, "log_diagonal": 30.0, "step": 1e12}  # logarithms; what Adam counts
NEVER_NEGATIVE = ("variance", "running_var", "num_batches_tracked", "exp_avg_sq", "step")
FLOATS = ("F64", "F32", "F16", "BF16")
STATED = {torch.int64: ("I64",), torch.uint8: ("U8",)}  # by what the network has; all else is a float

M = TypeVar("M", bound=nn.Module)
Shapes = dict[str, tuple[list[int], str]]  # of each tensor, and its type as safetensors names it


def load_weights(build: Callable[[], M], path: Path) -> M:
    """Build a network and fill it from a safetensors file.

    Raises DeepsepError for a file that lacks a tensor of the network's, has another, one of another shape or type, or
    one with values that no training leaves behind.
    """
    with torch.device("meta"):
        module = build()
    try:
        wanted = module.state_dict()
        check_stated(read_stated(path), wanted)
        with open_weights(path) as file:
            module.load_state_dict(
                {name: like(tensor).copy_(file.get_tensor(name)) for name, tensor in wanted.items()},
                assign=True,
            )
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        reason = shorten(str(error).strip().splitlines()[-1].strip()) if str(error).strip() else "no reason"
        raise DeepsepError(f"{path}: weights do not fit this folder's config ({reason})") from error
    try:
        check_values(module.state_dict())
    except ValueError as error:
        raise DeepsepError(f"{path}: {error}; get the file again, or train it anew") from error
    return module.eval().requires_grad_(False)


def like(meta: Tensor) -> Tensor:
    """Memory for a tensor that has none. Its own `empty_like` would import sympy first, a third of a second."""
    return torch.empty_strided(meta.shape, meta.stride(), dtype=meta.dtype, device="cpu")


def open_weights(path: Path) -> Any:
    """safetensors' `safe_open`, once the length of the header is known to be sane: it is read as a whole.

    Raises ValueError for a header that no network needs and for what is no regular file; SafetensorError, OSError.
    """
    if not path.is_file():
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) == 8 and struct.unpack("<Q", start)[0] > LONGEST_HEADER:
        raise ValueError(f"its header is longer than {LONGEST_HEADER} bytes")
    return safe_open(path, "pt")


def read_stated(path: Path) -> Shapes:
    """Read the shapes and types of a file's tensors, and none of their values."""
    with open_weights(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}
        return {name: (list(part.get_shape()), str(part.get_dtype())) for name, part in slices.items()}


def check_stated(stated: Shapes, wanted: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless a file holds the tensors wanted, each in its shape and type, and no others."""
    if missing := sorted(wanted.keys() - stated.keys()):
        raise ValueError(f"{len(missing)} tensors are missing, such as {shorten(missing[0])}")
    if more := sorted(stated.keys() - wanted.keys()):
        raise ValueError(f"{len(more)} tensors belong nowhere, such as {shorten(more[0])}")
    for name, tensor in wanted.items():
        shape, kind = stated[name]
        if shape != list(tensor.shape):
            raise ValueError(f"{name} has shape {shorten(shape)}, {list(tensor.shape)} is needed")
        allowed = STATED.get(tensor.dtype, FLOATS)
        if kind not in allowed:
            raise ValueError(f"{name} is of type {kind}, {' or '.join(allowed)} is needed")


def check_values(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError for values that no training leaves behind: NaN, infinite, huge, or not what their name says."""
    for name, tensor in tensors.items():
        if not tensor.numel():
            continue
        leaf = name.rpartition(".")[2]
        if tensor.is_floating_point():
            largest = LARGEST_OF.get(leaf, LARGEST)
            low, high = tensor.aminmax()
            if not (-largest <= float(low) and float(high) <= largest):  # NaN is neither
                raise ValueError(f"{name} has a weight that is NaN, infinite or beyond {largest:g}")
        if leaf in NEVER_NEGATIVE and bool(tensor.min() < 0):
            raise ValueError(f"{name} is negative")
        if leaf == "permutation" and tensor.sort().values.tolist() != list(range(len(tensor))):
            raise ValueError(f"{name} is no permutation")
        if leaf == "sign" and not bool((tensor.abs() == 1).all()):
            raise ValueError(f"{name} is neither 1 nor -1 throughout")

"""Choose the device, the number format and the number of threads; keep freed memory."""

from __future__ import annotations

import ctypes
import functools
import logging
import math
import os
import platform
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn import Conv1d, Conv2d
from torch.nn import functional as F

from glide_core.errors import GlideError, as_glide_error
from glide_core.fields import short
from glide_core.models.int8 import Int8Conv, why_not_int8
from glide_core.names import DTYPES

log = logging.getLogger("glide")

# what models can compute in
_COMPUTED = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # malloc.h of the GNU C library


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """Give the named device, or for "auto" a GPU when there is one; GlideError if it is missing."""
    if isinstance(name, str) and name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    # backends that are not built in raise nearly every type
    with as_glide_error(f"device {short(name)} is not available (auto, cpu, cuda, cuda:1, mps...)"):
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" is a device, and holds no numbers
        return device


def pick_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Give the named dtype for a device; a torch.dtype of `_COMPUTED` is returned as it is.

    "auto" is float16 on CUDA, as the reference, and float32 elsewhere. "fast" is what
    `fastest_dtype` finds on a CPU, elsewhere as "auto". int8 becomes "auto", with a warning, where
    8-bit models cannot run.
    """
    if isinstance(name, torch.dtype) and name in _COMPUTED:
        return name
    if not isinstance(name, str) or name not in DTYPES:
        raise GlideError(f"unknown number format {short(name)}: expected {', '.join(DTYPES)}")
    auto = torch.float16 if device.type == "cuda" else torch.float32
    if name == "fast":
        return fastest_dtype() if device.type == "cpu" else auto
    if name == "int8" and (reason := why_not_int8(device)):
        log.warning("%s: %s is used", reason, str(auto).removeprefix("torch."))
        return auto
    if name == "float16" and device.type == "cpu":
        raise GlideError("float16 is slow on a CPU: expected float32, bfloat16 or int8")
    dtype = auto if name == "auto" else getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


@functools.cache
def fastest_dtype() -> torch.dtype:
    """Time a convolution and a matrix product of the base model in each dtype that this CPU runs.

    The choice is logged with the times. Takes less than half a second, once per process.
    """
    dtypes = [torch.float32, torch.bfloat16] + ([] if why_not_int8() else [torch.int8])
    with torch.inference_mode():
        steps = {str(dtype).removeprefix("torch."): _representative(dtype) for dtype in dtypes}
        times = {name: timeit.timeit(step, number=1) for name, step in steps.items()}
        limit = 4 * min(times.values())  # bfloat16 can be emulated: it is not timed again then
        for name in (name for name in steps if times[name] < limit):
            times[name] = min(timeit.repeat(steps[name], number=1, repeat=4))
    name = min(times, key=times.__getitem__)
    shown = ", ".join(f"{name} {1000 * time:.1f} ms" for name, time in times.items())
    log.warning("fast: %s has the quickest convolutions and matrix products (%s)", name, shown)
    return dtypes[list(times).index(name)]


def _representative(dtype: torch.dtype) -> Callable[[], object]:
    """A 3x3 convolution and a projection as at 16x16 in the base model."""
    conv, linear = Conv2d(384, 384, 3, padding=1), Conv1d(576, 576, 1)
    image = torch.randn(1, 384, 16, 16).contiguous(memory_format=torch.channels_last)
    tokens = torch.randn(1, 256, 576)
    if dtype == torch.int8:
        quantized = Int8Conv(conv), Int8Conv(linear)
        return lambda: (quantized[0](image), quantized[1](tokens.transpose(1, 2)))
    conv.to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    linear.to(dtype)
    image, tokens, weight = image.to(dtype), tokens.to(dtype), linear.weight[..., 0]
    return lambda: (conv(image), F.linear(tokens, weight, linear.bias))


def free_cores() -> int:
    """CPU threads to use by default: cores that this process may use and others leave free.

    Counts the affinity mask, a container's CPU quota, and the load of the machine. Threads that
    wait for a busy core slow down all others: one thread is then faster than two.
    """
    cores = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, min(allowed, cpu_quota(), cores - round(busy)))


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores of a container's CPU quota (cgroup 2 or 1), rounded up; 2**16 without one."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((root / name).read_text() for name in names).split()
            if float(quota) > 0:  # version 2 says "max" without a quota, version 1 says -1
                return math.ceil(float(quota) / float(period))
        except (OSError, ValueError):
            continue
    return 2**16


@contextmanager
def keep_freed_memory(device: torch.device) -> Iterator[None]:
    """Make the GNU C library keep freed memory, and return it at the end.

    By default every block over 32 MB is mapped again and zeroed page by page: for one activation of
    the 256x256 upsampler this takes ten times as long as computing its SiLU. Without effect on
    other devices and C libraries.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    library.malloc_trim(0)  # what loading has left
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:  # the values that glibc adjusts to in a program with large tensors
        library.mallopt(_MMAP_MAX, 65536)
        library.mallopt(_MMAP_THRESHOLD, 32 * 2**20)
        library.mallopt(_TRIM_THRESHOLD, 64 * 2**20)
        library.malloc_trim(0)

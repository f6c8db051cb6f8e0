"""Import the pack as ComfyUI does, and print the side effects of the import as JSON.

    python import_watch.py FOLDER [COMFYUI]

FOLDER is the pack, COMFYUI a checkout to import first. It runs in a process of its own, since what
was imported before decides what an import does; `watch` starts that.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import locale
import logging
import os
import random
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
# Of a report, what an import that only defines nodes leaves empty: connections asked for, files and
# folders changed, processes started, settings of the process changed, others' objects replaced.
NOTHING: dict[str, Any] = {
    "network": [], "disk": [], "processes": [], "globals": {}, "patched": []
}  # fmt: skip
CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
ON_DISK = {
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir",
    "os.symlink", "os.truncate", "os.utime", "shutil.copyfile", "shutil.move", "shutil.rmtree",
    "sqlite3.connect", "tempfile.mkdtemp", "tempfile.mkstemp",
}  # fmt: skip
OUTSIDE = ("socket.", "http.client.", "urllib.", "ftplib.", "ssl.")
PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn")


def watch(folder: Path, *comfyui: str, write_bytecode: bool = False) -> dict[str, Any]:
    """Import the pack in `folder` in a new process; gives what `report` found.

    write_bytecode: let Python keep what it compiled, as it does for everyone but these tests.
    """
    options = [] if write_bytecode else ["-B"]
    command = [sys.executable, *options, __file__, str(folder), *comfyui]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.anchor)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(folder: Path, comfyui: str | None) -> dict[str, Any]:
    """Import what is there before the pack, then the pack; give the difference."""
    import numpy
    import torch

    forget_installed_copies()
    if comfyui is not None:
        start_comfyui(comfyui)
    known = {name: vars(module).copy() for name, module in modules().items()}
    before = globals_of(torch, numpy)
    disk: list[str] = []
    network: list[str] = []
    processes: list[str] = []
    listening = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not listening:
            return
        text = f"{event}{arguments!r}"[:300]
        if event in ON_DISK or (event == "open" and writes(*arguments)):
            disk.append(text)
        elif event.startswith(OUTSIDE):
            network.append(text)
            raise OSError(f"the import must not use the network: {text}")
        elif event.startswith(PROCESSES):
            processes.append(text)

    sys.addaudithook(hook)
    start = time.perf_counter()
    pack = import_by_path(folder)
    seconds = time.perf_counter() - start
    listening = False
    after = globals_of(torch, numpy)
    return {
        "nodes": sorted(pack.NODE_CLASS_MAPPINGS),
        "core": sys.modules["glide_core"].__file__,
        "seconds": seconds,
        "modules": sorted(set(sys.modules) - set(known)),
        "disk": disk,
        "network": network,
        "processes": processes,
        "globals": {k: [before[k], after[k]] for k in before if before[k] != after[k]},
        "patched": patched(known),
    }


def forget_installed_copies() -> None:
    """Find glide_core in the pack's folder alone, as on a machine where only ComfyUI has it."""
    sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
    sys.path[:] = [p for p in sys.path if not Path(p, "glide_core").is_dir() and Path(p) != HERE]


def start_comfyui(path: str) -> None:
    """Import what ComfyUI has imported when it comes to the custom nodes, in its order."""
    sys.path.insert(0, path)
    args = importlib.import_module("comfy.cli_args").args
    args.cpu = True  # before comfy.model_management looks for a GPU
    for name in ("folder_paths", "utils.extra_config", "execution", "server", "nodes"):
        importlib.import_module(name)


def import_by_path(folder: Path) -> Any:
    """What ComfyUI's nodes.load_custom_node does."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def writes(path: object, mode: str | None, flags: int) -> bool:
    return bool(set(mode or "") & set("wax+")) or bool(flags & CHANGES)


def modules() -> dict[str, Any]:
    return {name: module for name, module in sys.modules.items() if hasattr(module, "__dict__")}


def patched(known: dict[str, dict[str, Any]]) -> list[str]:
    """Names in modules that were there before, which now stand for something else."""
    return [
        f"{name}.{attribute}"
        for name, values in known.items()
        for attribute, value in values.items()
        if not attribute.startswith("__warningregistry__")
        and vars(sys.modules[name]).get(attribute, None) is not value
    ]


def globals_of(torch: Any, numpy: Any) -> dict[str, str]:
    """Everything of the process that an import could change for the others in it, as text."""
    backends = torch.backends
    values: dict[str, Callable[[], Any]] = {
        "torch dtype": torch.get_default_dtype,
        "torch device": torch.get_default_device,
        "torch threads": lambda: (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch grad": lambda: (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "torch anomaly": torch.is_anomaly_enabled,
        "torch deterministic": lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "torch cudnn": lambda: [
            getattr(backends.cudnn, k) for k in ("enabled", "benchmark", "deterministic")
        ],
        "torch precision": torch.get_float32_matmul_precision,
        "torch attention": lambda: [
            backends.cuda.flash_sdp_enabled(),
            backends.cuda.mem_efficient_sdp_enabled(),
            backends.cuda.math_sdp_enabled(),
        ],
        "torch mkldnn": lambda: backends.mkldnn.enabled,
        "torch sharing": torch.multiprocessing.get_sharing_strategy,
        "torch printing": lambda: vars(torch._tensor_str.PRINT_OPTS),
        "torch random": lambda: torch.random.get_rng_state().sum().item(),
        "numpy random": lambda: hash(str(numpy.random.get_state())),
        "python random": lambda: hash(random.getstate()),
        "numpy errors": numpy.geterr,
        "numpy printing": numpy.get_printoptions,
        "logging": lambda: (
            logging.root.level,
            logging.root.handlers,
            logging.root.filters,
            logging.root.manager.disable,
            logging.getLoggerClass(),
        ),
        "warnings": lambda: (warnings.filters, warnings.showwarning),
        "environment": lambda: sorted(os.environ.items()),
        "working directory": os.getcwd,
        "sys.path": lambda: (sys.path, sys.path_hooks, sys.meta_path),
        "sys hooks": lambda: (sys.excepthook, sys.displayhook, sys.gettrace(), sys.getprofile()),
        "streams": lambda: (sys.stdin, sys.stdout, sys.stderr),
        "recursion": sys.getrecursionlimit,
        "locale": lambda: locale.setlocale(locale.LC_ALL),
        "socket timeout": socket.getdefaulttimeout,
        "threads": lambda: [thread.name for thread in threading.enumerate()],
    }
    return {name: repr(value()) for name, value in values.items()}


if __name__ == "__main__":
    result = report(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
    print(json.dumps(result))

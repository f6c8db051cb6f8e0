"""What pip installs and what ComfyUI loads are the same things, under their own names."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import glide_pack

import glide_core

ROOT = Path(glide_pack.__file__).parent
PYPROJECT = (ROOT / "pyproject.toml").read_text() if (ROOT / "pyproject.toml").exists() else ""


def packages_in(folder: str, name: str) -> set[str]:
    inits = (ROOT / folder).rglob("__init__.py")
    relative = (path.parent.relative_to(ROOT / folder).parts for path in inits)
    return {".".join((name, *parts)) for parts in relative}


def test_every_package_is_listed_for_pip() -> None:
    listed = set(re.findall(r'^    "(glide_[\w.]+)",$', PYPROJECT, re.MULTILINE))
    assert listed == packages_in("glide_core", "glide_core") | {"glide_pack"} | packages_in(
        "nodes", "glide_pack.nodes"
    )


def test_the_version_is_one() -> None:
    assert f'version = "{glide_core.__version__}"' in PYPROJECT


def test_nothing_named_nodes_is_on_the_path() -> None:
    """ComfyUI's own module has that name."""
    code = "import importlib.util as u, glide_pack; assert u.find_spec('nodes') is None"
    assert subprocess.run([sys.executable, "-I", "-c", code]).returncode == 0


def test_comfyui_loads_the_folder_by_path_without_anything_installed(tmp_path: Path) -> None:
    """Under a name of its own, and with a second copy of the core nowhere."""
    code = f"""
import importlib.util, sys
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
sys.path = [p for p in sys.path if not (p and __import__("pathlib").Path(p, "glide_core").is_dir())]
folder = {str(ROOT)!r}
name = folder.replace(".", "_x_")  # ComfyUI's own way of naming it
spec = importlib.util.spec_from_file_location(name, folder + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
assert len(module.NODE_CLASS_MAPPINGS) >= 13 and module.WEB_DIRECTORY == "./web"
for node in module.NODE_CLASS_MAPPINGS.values():
    node.INPUT_TYPES()
import glide_core
assert glide_core.__file__.startswith(folder)
copies = [n for n, m in sys.modules.items() if (getattr(m, "__file__", "") or "").endswith(
    "glide_core/errors.py")]
assert copies == ["glide_core.errors"], copies
assert "nodes" not in sys.modules and "glide_pack" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_root_bears_being_imported_alone_as_pytest_does() -> None:
    spec = importlib.util.spec_from_file_location("__init__", ROOT / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.NODE_CLASS_MAPPINGS == {}

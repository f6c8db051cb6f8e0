"""What pip installs and what ComfyUI loads are the same things, under their own names."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import glide_pack
import pytest
from PIL import Image

import glide_core

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it along

ROOT = Path(glide_pack.__file__).parent
PYPROJECT = (ROOT / "pyproject.toml").read_text() if (ROOT / "pyproject.toml").exists() else ""
SETTINGS: dict[str, Any] = tomllib.loads(PYPROJECT)
# What a requirement is called when it is imported, and what ComfyUI alone has.
IMPORTED_AS = {"open_clip_torch": "open_clip", "Pillow": "PIL", "torch-fidelity": "torch_fidelity"}
OF_COMFYUI = {"comfy", "comfy_execution", "folder_paths", "latent_preview", "nodes"}
MAKER_ONLY = {"resvg_py", "tokenizers"}  # recipes/emoji/README.md installs them


def packages_in(folder: str, name: str) -> set[str]:
    inits = (ROOT / folder).rglob("__init__.py")
    relative = (path.parent.relative_to(ROOT / folder).parts for path in inits)
    return {".".join((name, *parts)) for parts in relative}


def test_every_package_is_listed_for_pip() -> None:
    listed = set(re.findall(r'^    "(glide_[\w.]+)",$', PYPROJECT, re.MULTILINE))
    assert listed == packages_in("glide_core", "glide_core") | {"glide_pack"} | packages_in(
        "nodes", "glide_pack.nodes"
    )


def test_pip_brings_every_file_that_comfyui_picks_up() -> None:
    (line,) = re.findall(r"^glide_pack = \[(.*)\]$", PYPROJECT, re.MULTILINE)
    brought = {path for glob in re.findall(r'"([^"]+)"', line) for path in ROOT.glob(glob)}
    for folder in ("example_workflows", "subgraphs", "locales", "web"):
        files = {path for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert files and files <= brought, folder


def test_the_version_is_the_same_everywhere() -> None:
    assert f'version = "{glide_core.__version__}"' in PYPROJECT


def test_nothing_named_nodes_is_on_the_path() -> None:
    """ComfyUI's own module has that name."""
    code = "import importlib.util as u, glide_pack; assert u.find_spec('nodes') is None"
    assert subprocess.run([sys.executable, "-I", "-c", code]).returncode == 0


def test_comfyui_loads_the_folder_by_path_without_anything_installed(tmp_path: Path) -> None:
    """Under the name that ComfyUI gives it, and with one copy of glide_core."""
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


def test_nodes_and_help_import_without_the_libraries_that_they_need_only_at_run_time() -> None:
    code = """
import sys
for name in ("matplotlib", "diffusers", "open_clip", "torchvision", "torch_fidelity", "accelerate"):
    sys.modules[name] = None  # importing it raises ImportError
import glide_core.evaluation.evaluate, glide_core.diffusion
from glide_pack.nodes import NODE_CLASS_MAPPINGS
for node in NODE_CLASS_MAPPINGS.values():
    node.INPUT_TYPES()
from glide_core.cli import main
try:
    main(["sweep", "--help"])
except SystemExit as end:
    assert end.code == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_recipes_and_repository_files_are_not_in_the_registrys_archive() -> None:
    ignored = (ROOT / ".comfyignore").read_text().splitlines()
    assert {"recipes/", "tests/", "benchmarks/", ".ci/", ".github/"} <= set(ignored)
    assert not any("recipes" in name for name in SETTINGS["tool"]["setuptools"]["packages"])


def test_the_root_module_imports_alone() -> None:
    spec = importlib.util.spec_from_file_location("__init__", ROOT / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.NODE_CLASS_MAPPINGS == {}


def requirements(lines: list[str]) -> set[str]:
    names = {re.split(r"[<>=~! ;\[]", line, maxsplit=1)[0] for line in lines if line}
    return {IMPORTED_AS.get(name, name) for name in names}


def test_there_is_one_list_of_requirements() -> None:
    """ComfyUI-Manager installs the file, pip reads it through pyproject.toml."""
    assert "dependencies" in SETTINGS["project"]["dynamic"]
    assert "dependencies" not in SETTINGS["project"]
    dynamic = SETTINGS["tool"]["setuptools"]["dynamic"]
    assert dynamic == {"dependencies": {"file": ["requirements.txt"]}}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert len(lines) == len(set(lines))
    # at most a range: ComfyUI decides on versions
    assert all(re.fullmatch(r"\w+(>=[\d.]+)?(,?<[\d.]+)?", line) for line in lines)


def test_everything_that_is_imported_is_required() -> None:
    used = set()
    for path in [*(ROOT / "glide_core").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                used.add(str(node.module).split(".")[0])
    used -= {*sys.stdlib_module_names, "glide_core", "glide_pack", *OF_COMFYUI, *MAKER_ONLY}
    always = requirements((ROOT / "requirements.txt").read_text().splitlines())
    extras = SETTINGS["project"]["optional-dependencies"]
    chosen = requirements([*extras["train"], *extras["metrics"], *extras["ray"]])
    assert used <= always | chosen
    assert always <= used


def test_the_registry_has_a_name_an_icon_and_a_banner() -> None:
    comfy = SETTINGS["tool"]["comfy"]
    assert comfy["DisplayName"] == "GLIDE"
    assert "web" not in comfy  # WEB_DIRECTORY says it: with both, each script would load twice
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    icon, banner = (Image.open(ROOT / repository_path(comfy[key])) for key in ("Icon", "Banner"))
    assert icon.format == "PNG"
    assert icon.width == icon.height <= 400
    assert banner.format == "PNG"
    assert banner.width * 9 == banner.height * 21


def repository_path(address: str) -> str:
    return address[address.index("docs/images/") :]


@pytest.mark.parametrize("key", ["Icon", "Banner"])
def test_the_registrys_addresses_are_ours_or_not_given_yet(key: str) -> None:
    """Publisher, repository and image URLs are either all set or all empty."""
    comfy, urls = SETTINGS["tool"]["comfy"], SETTINGS["project"].get("urls", {})
    given = bool(comfy["PublisherId"])
    assert given == ("Repository" in urls)
    assert comfy[key].startswith("https://" if given else "docs/images/")

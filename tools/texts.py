"""Texts generated from the node classes: the English locale, and the tables of the help pages.

    python -m tools.texts           # write them
    python -m tools.texts --check   # exit with 1 where a file differs, naming it

Other languages are translated by people, key by key, in locales/LANGUAGE/nodeDefs.json; the tables
of their help pages (web/docs/NODE/LANGUAGE.md) are written from those files.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from glide_pack.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

from glide_core.names import HOST_DTYPES

ROOT = Path(__file__).resolve().parents[1]
LOCALES, PAGES = ROOT / "locales", ROOT / "web" / "docs"
# ComfyUI has words for these itself. Ours would replace them on every node of every pack.
CORE_CATEGORIES = {"GLIDE", "loaders", "conditioning", "sampling"}
# choices that depend on the disk, or are too many for a table
UNLISTED = ("checkpoint", "text_checkpoint", "weights", "architecture", "tag")

WORDS = json.loads((ROOT / "tools" / "help_words.json").read_text(encoding="utf-8"))


def node_defs() -> dict[str, Any]:
    """Give nodeDefs.json in English, as ComfyUI looks its words up.

    An output called like its type gets no name: ComfyUI shows its own word for the type.
    """
    return {
        node_id: {
            "display_name": NODE_DISPLAY_NAME_MAPPINGS[node_id],
            "description": node.DESCRIPTION,
            "inputs": {
                name: {"name": name, "tooltip": entry[1]["tooltip"]}
                for _, name, entry in declared(node_id)
            },
            "outputs": {
                str(i): ({} if name == kind else {"name": name}) | {"tooltip": tooltip}
                for i, (name, kind, tooltip) in enumerate(outputs(node_id))
            },
        }
        for node_id, node in NODE_CLASS_MAPPINGS.items()
    }


def categories() -> dict[str, Any]:
    """Give main.json in English: the categories that are not ComfyUI's own."""
    nodes = NODE_CLASS_MAPPINGS.values()
    words = dict.fromkeys(word for node in nodes for word in node.CATEGORY.split("/"))
    return {"nodeCategories": {word: word for word in words if word not in CORE_CATEGORIES}}


def declared(node_id: str) -> list[tuple[str, str, Any]]:
    """Give (group, name, entry) of every input."""
    groups = NODE_CLASS_MAPPINGS[node_id].INPUT_TYPES().items()
    return [(group, name, entry) for group, inputs in groups for name, entry in inputs.items()]


def outputs(node_id: str) -> list[tuple[str, str, str]]:
    """Give (name, type, tooltip) of every output."""
    node = NODE_CLASS_MAPPINGS[node_id]
    names = getattr(node, "RETURN_NAMES", node.RETURN_TYPES)
    return list(zip(names, node.RETURN_TYPES, node.OUTPUT_TOOLTIPS, strict=True))


def tables(node_id: str, words: dict[str, Any], language: str = "en") -> str:
    """Give the sections Inputs and Outputs of a help page.

    One column: ComfyUI's help panel is about 250 pixels wide and cuts a second column off.
    """
    inputs_title, input_title, outputs_title, output_title, _ = WORDS[language]["headings"]
    rows = [f"## {inputs_title}", "", f"| {input_title} |", "|:--|"]
    for group, name, (kind, options) in declared(node_id):
        text = words["inputs"][name]["tooltip"]
        kind = list(HOST_DTYPES) if name == "dtype" else kind  # `glide run` has more
        if isinstance(kind, list) and name not in UNLISTED:
            text += WORDS[language]["choices"].format(", ".join(f"`{choice}`" for choice in kind))
        rows.append(f"| {_heading(group, name, kind, options, language)}<br>{text} |")
    rows += ["", f"## {outputs_title}", "", f"| {output_title} |", "|:--|"]
    for i, (name, kind, _) in enumerate(outputs(node_id)):
        rows.append(f"| `{name}` {kind}<br>{words['outputs'][str(i)]['tooltip']} |")
    return "\n".join(rows) + "\n"


def _heading(group: str, name: str, kind: Any, options: dict[str, Any], language: str) -> str:
    words = WORDS[language]
    said = ["COMBO" if isinstance(kind, list) else kind]
    if group == "optional":
        said.append(words["optional"])
    if "min" in options:
        said.append(words["range"].format(_number(options["min"]), _number(options["max"])))
    if name == "checkpoint":
        said.append(words["default"].format(words["first_file"]))
    elif "default" in options:
        default = options["default"]
        shown = f"`{default}`" if isinstance(default, str) else _number(default)
        if isinstance(default, bool):
            shown = str(default).lower()
        said.append(words["default"].format(words["empty"] if default == "" else shown))
    return f"`{name}` {words['comma'].join(said)}"


def _number(value: float) -> str:
    return "2^64 - 1" if value == 2**64 - 1 else f"{value:g}"


def with_tables(page: str, node_id: str, words: dict[str, Any], language: str = "en") -> str:
    """Give a help page with its title and tables written again; the rest stays as it is."""
    first, *_, last = WORDS[language]["headings"]
    before, rest = page.split(f"\n## {first}\n", 1)
    tips = rest.split(f"\n## {last}\n", 1)
    after = f"\n## {last}\n{tips[1]}" if len(tips) == 2 else ""
    before = re.sub(r"^# .*", f"# {words['display_name']}", before, count=1)
    return f"{before}\n{tables(node_id, words, language)}{after}"


def files() -> dict[Path, str]:
    """Give every generated file and its content."""
    english = node_defs()
    found = {
        LOCALES / "en" / name: json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        for name, value in (("main.json", categories()), ("nodeDefs.json", english))
    }
    for path in sorted(PAGES.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        found[path] = with_tables(page, path.stem, english[path.stem])
    for path in sorted(PAGES.glob("*/*.md")):
        words = json.loads((LOCALES / path.stem / "nodeDefs.json").read_text(encoding="utf-8"))
        page, node_id = path.read_text(encoding="utf-8"), path.parent.name
        found[path] = with_tables(page, node_id, words[node_id], path.stem)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, report differences")
    check = parser.parse_args().check
    different = [path for path, text in files().items() if path.read_text("utf-8") != text]
    for path in different:
        print(path.relative_to(ROOT))
        if not check:
            path.write_text(files()[path], encoding="utf-8")
    return 1 if check and different else 0


if __name__ == "__main__":
    raise SystemExit(main())

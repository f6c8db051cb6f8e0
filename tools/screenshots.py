"""Run the example workflows in ComfyUI's interface and save screenshots for docs/workflows.md.

    COMFYUI_PATH=... python -m tools.screenshots FOLDER [NAME...]

(from the repository's root, with that ComfyUI's Python, Playwright and a Chromium). Without names:
all that run on the bundled models. Stops at a workflow that does not succeed.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from tools.comfyui import REPOSITORY
from tools.comfyui.browser import editor, find_chromium
from tools.comfyui.checkpoints import temporary_checkpoints
from tools.comfyui.serving import Server

EXAMPLES = REPOSITORY / "example_workflows"
NEEDS_OTHER_WEIGHTS = {"glide_guide_any_model", "glide_openai_checkpoints"}
WIDTH = 1600  # pixels of the image
SIZE = (2400, 1300)  # of the window
SETTINGS = {
    "Comfy.Minimap.Visible": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,  # small text is drawn all the same
}
RUN = """async workflow => {
    const { app } = window
    await app.loadGraphData(workflow)
    const ended = new Promise(done => {
        for (const end of ['execution_success', 'execution_error', 'execution_interrupted'])
            app.api.addEventListener(end, event => done([end, event.detail]), { once: true })
    })
    await app.queuePrompt(0)
    return await ended
}"""
FRAME = """([width, height]) => {
    const { canvas, graph } = window.app
    canvas.show_info = false
    const boxes = [...graph._nodes.map(node => [...node.pos, ...node.size]),
                   ...graph._groups.map(group => [...group.pos, ...group.size])]
    const left = Math.min(...boxes.map(b => b[0])), top = Math.min(...boxes.map(b => b[1]))
    const right = Math.max(...boxes.map(b => b[0] + b[2]))
    const bottom = Math.max(...boxes.map(b => b[1] + b[3]))
    const place = canvas.canvas.getBoundingClientRect()
    const scale = Math.min((width - place.left - 120) / (right - left),
                           (height - place.top - 180) / (bottom - top), 1)
    canvas.ds.scale = scale
    canvas.ds.offset[0] = 70 / scale - left
    canvas.ds.offset[1] = 90 / scale - top
    canvas.setDirty(true, true)
    return {
        x: place.left + 58, y: place.top + 90 - 56 * scale,
        width: (right - left) * scale + 24, height: (bottom - top) * scale + 72 * scale,
    }
}"""


def photograph(page: Any, name: str, folder: Path) -> None:
    """Run one workflow in the open interface and write FOLDER/NAME.jpg."""
    workflow = json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))
    end, detail = page.evaluate(RUN, workflow)
    if end != "execution_success":
        raise SystemExit(f"{name}: {end}: {detail}")
    page.wait_for_timeout(2000)  # images are still on their way
    clip = page.evaluate(FRAME, list(SIZE))
    page.wait_for_timeout(2000)
    image = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    if image.width > WIDTH:
        height = round(image.height * WIDTH / image.width)
        image = image.resize((WIDTH, height), Image.Resampling.LANCZOS)
    image.save(folder / f"{name}.jpg", quality=80)
    print(folder / f"{name}.jpg", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    known = {path.stem for path in EXAMPLES.glob("*.json")}
    names = options.names or sorted(known - NEEDS_OTHER_WEIGHTS)
    options.folder.mkdir(parents=True, exist_ok=True)
    find_chromium()  # fails before the server starts
    with (
        temporary_checkpoints() as checkpoints,
        Server(checkpoints) as server,
        editor(server.url, size=SIZE, settings=SETTINGS) as page,
    ):
        page.set_default_timeout(600_000)
        for name in names:
            photograph(page, name, options.folder)


if __name__ == "__main__":
    main()

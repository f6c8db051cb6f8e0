"""The example workflows: `python -m tools.templates` writes example_workflows/*.json.

No template needs a file that does not ship, except where `models` names its address; images and
masks to work on are made inside the workflow.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tools import templates_builtin, templates_inpainting, templates_sampling
from tools.workflow_writer import ROOT, Workflow

FOLDER = ROOT / "example_workflows"
TEMPLATES: tuple[Callable[[], Workflow], ...] = (
    templates_sampling.text_to_image,
    templates_sampling.openai_checkpoints,
    templates_sampling.clip_guided,
    templates_sampling.upscale,
    templates_sampling.edit,
    templates_sampling.best_of,
    templates_sampling.guidance_sweep,
    templates_inpainting.inpaint,
    templates_inpainting.inpaint_ksampler,
    templates_inpainting.prompt_by_prompt,
    templates_builtin.guide_any_model,
    templates_builtin.native_ksampler,
    templates_builtin.regional_prompts,
    templates_builtin.train_lora,
)


def files() -> dict[Path, str]:
    """Give every template's file and content."""
    flows = [make() for make in TEMPLATES]
    return {FOLDER / f"{flow.name}.json": flow.text() for flow in flows}


if __name__ == "__main__":
    for path, content in files().items():
        path.write_text(content, encoding="ascii")
        print(path.relative_to(ROOT))

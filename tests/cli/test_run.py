"""`glide run`: workflows that cannot run write nothing; built-in nodes work as in ComfyUI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from glide_core.cli import main


def run(*words: object) -> int:
    return main(["run", *map(str, words)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Expected"),
        ("[]", "Expected"),
        ("[" * 50000, "Expected"),
        ("1" * 5000, "Expected"),
        ('{"1": {"class_type": "Nope", "inputs": {}}}', "unknown nodes: node 1"),
    ],
)
def test_a_malformed_workflow_writes_nothing(
    text: str, words: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = out.parent / "workflow.json"
    path.write_text(text)
    assert run(path, "--out", out) == 1
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_a_missing_image_is_reported_before_the_workflow_runs(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = out.parent / "workflow.json"
    nodes = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "none.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
    }
    path.write_text(json.dumps(nodes))
    assert run(path, "--out", out) == 1
    said = capsys.readouterr().err
    assert "node 1 (LoadImage), input 'image'" in said and "image 'none.png' was not found" in said
    Image.new("RGB", (8, 6), "red").save(out.parent / "none.png")
    assert run(path, "--out", out) == 0
    assert Image.open(out / "a_00001_.png").size == (8, 6)


def test_built_in_nodes_work_as_in_comfyui(out: Path) -> None:
    """EmptyLatentImage counts SD pixels (256 is 32), CLIPTextEncode and the VAE take ours."""
    sampler = {"seed": 1, "steps": 2, "sampler_name": "ddim", "cfg": 2.0}
    nodes = {
        "1": ("GlideLoader", {"checkpoint": "tiny_base.safetensors", "dtype": "float32"}),
        "2": ("CLIPTextEncode", {"text": "a car", "clip": ["1", 1]}),
        "3": ("EmptyLatentImage", {"width": 384, "height": 256, "batch_size": 1}),
        "4": (
            "GlideSampler",
            {
                "model": ["1", 0],
                "positive": ["2", 0],
                "negative": ["2", 0],
                "latent_image": ["3", 0],
                **sampler,
            },
        ),
        "5": ("VAEDecode", {"samples": ["4", 1], "vae": ["1", 2]}),
        "6": ("SaveImage", {"images": ["5", 0], "filename_prefix": "sub/decoded"}),
        "7": ("VAEEncode", {"pixels": ["5", 0], "vae": ["1", 2]}),
        "8": ("VAEDecode", {"samples": ["7", 0], "vae": ["1", 2]}),
        "9": ("PreviewImage", {"images": ["8", 0]}),
    }
    path = out.parent / "workflow.json"
    plain = {k: {"class_type": kind, "inputs": inputs} for k, (kind, inputs) in nodes.items()}
    path.write_text(json.dumps(plain))
    assert run(path, "--out", out, "--quiet") == 0
    saved, shown = out / "sub" / "decoded_00001_.png", out / "preview_00001_.png"
    assert Image.open(saved).size == (48, 32)
    assert Image.open(saved).tobytes() == Image.open(shown).tobytes()


@pytest.mark.parametrize("prefix", ["../../x", "/x", "", ".", "a\0b", "a" * 300])
def test_a_prefix_cannot_lead_out_of_the_folder(
    prefix: str, out: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = out.parent / "workflow.json"
    nodes = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    path.write_text(json.dumps(nodes))
    assert run(path, "--out", out, "--set", f"2.filename_prefix={prefix}") == 1
    said = capsys.readouterr().err
    assert "file name prefix" in said or "cannot write" in said
    assert not list(out.parent.rglob("*_.png"))


@pytest.mark.parametrize("relative", [True, False])
def test_a_loader_accepts_the_path_of_any_file(
    relative: bool, out: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = out.parent / "runs" / "mine" / "base.safetensors"
    mine.parent.mkdir(parents=True)
    mine.write_bytes((model_folder / "tiny_base.safetensors").read_bytes())
    monkeypatch.chdir(out.parent)
    example = Path(__file__).parents[2] / "example_workflows" / "glide_text_to_image.json"
    name = "runs/mine/base.safetensors" if relative else str(mine)
    changes = [f"GlideLoader.checkpoint={name}", "GlideSampler.steps=1", "GlideUpsample.steps=1"]
    changes.append("GlideUpsamplerLoader.checkpoint=tiny_upsampler.safetensors")
    settings = [word for change in changes for word in ("--set", change)]
    assert run(example, "--out", out, "--quiet", *settings) == 0
    assert list(out.glob("*.png"))

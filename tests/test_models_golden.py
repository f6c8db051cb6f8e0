"""The networks against recorded outputs of OpenAI's code (quick forward checks)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from glide_core.config import ClipConfig, GlideConfig
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip

GOLDEN = Path(__file__).parent / "golden"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
FORWARDS = [n for n, c in MANIFEST["cases"].items() if c["kind"] == "unet_forward"]


def tensors(*files: str) -> dict[str, torch.Tensor]:
    out: dict[str, torch.Tensor] = {}
    for name in files:
        out.update(load_file(GOLDEN / name))
    return {k: v.float() if v.dtype == torch.bfloat16 else v for k, v in out.items()}


def golden_model(name: str) -> GlideModel:
    entry = MANIFEST["models"][name]
    model = GlideModel(GlideConfig.from_reference_options(entry["config"]))
    model.load_openai_state_dict(tensors(*entry["files"]))
    return model.eval()


@pytest.mark.parametrize("name", FORWARDS)
@torch.no_grad()
def test_unet_forward_equals_the_recorded_one(name: str) -> None:
    case = MANIFEST["cases"][name]
    data = tensors(case["file"])
    model = golden_model(case["model"])
    features = model.encode(data["in.tokens"], data["in.mask"])
    out = model.unet(
        data["in.x"],
        data["in.t"],
        model.unet.context(features),
        low_res=data.get("in.low_res"),
        image=data.get("in.inpaint_image"),
        keep_mask=data.get("in.inpaint_mask"),
    )
    got = {
        "out": out,
        "xf_out": features.last_hidden_state.transpose(1, 2),
        "xf_proj": features.pooled,
    }
    for key, value in got.items():
        allowed = case["fair_tolerance"][key]
        torch.testing.assert_close(value, data["out." + key], **allowed)


@torch.no_grad()
def test_clip_features_equal_the_recorded_ones() -> None:
    entry, case = MANIFEST["models"]["clip"], MANIFEST["cases"]["clip"]
    clip = NoisyClip(ClipConfig.from_reference_options(entry["config"]))
    clip.text.load_state_dict(tensors(*entry["text_encoder_files"]))
    clip.image.load_state_dict(tensors(*entry["image_encoder_files"]))
    data = tensors(case["file"])
    image = clip.encode_image(data["in.x"], data["in.t"])
    text = clip.encode_text(data["out.text_ids"], data["out.text_lens"])
    for key, value in {"image_unnormalised": image, "text_unnormalised": text}.items():
        torch.testing.assert_close(value, data["out." + key], **case["fair_tolerance"][key])

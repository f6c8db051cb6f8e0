"""The un-noised CLIP's loader, guide and score, on a tiny open_clip architecture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from glide_pack.nodes import NODE_CLASS_MAPPINGS, host
from glide_pack.nodes.host.standalone import StandaloneHost
from safetensors.torch import save_file

from glide_core.errors import GlideError

ARCHITECTURE = "glide-tiny-test"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import open_clip

    folder = tmp_path_factory.mktemp("open_clip")
    config = folder / f"{ARCHITECTURE}.json"
    config.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    file = folder / "tiny_open_clip.safetensors"
    save_file(open_clip.create_model(ARCHITECTURE).state_dict(), file)
    return file


@pytest.fixture(autouse=True)
def standalone(weights: Path, tiny_models: Path) -> Iterator[None]:
    folders = (weights.parent, tiny_models)
    here = StandaloneHost(device="cpu", show_progress=False, folders=folders)
    with host.using(here), torch.inference_mode():
        yield


def load(**changes: Any) -> Any:
    node: Any = NODE_CLASS_MAPPINGS["GlideOpenClipLoader"]()
    given = {
        "architecture": ARCHITECTURE,
        "weights": "tiny_open_clip.safetensors",
        "tag": "",
        "allow_download": False,
    }
    return node.load(**{**given, **changes})[0]


def test_it_guides_a_sampler_by_its_estimate_of_the_image() -> None:
    nodes: Any = NODE_CLASS_MAPPINGS
    model, clip, _ = nodes["GlideLoader"]().load("tiny_base.safetensors", "float32")
    words = nodes["GlideTextEncode"]().encode(clip, "an apple")[0]
    latent = nodes["GlideEmptyLatent"]().make(32, 32, 2)[0]
    guided = nodes["GlideClipGuidance"]().add(model, load(), "an apple", 30.0, cutouts=2)[0]
    given = {"preset": "custom", "seed": 1, "steps": 4, "sampler_name": "ddim", "cfg": 1.0}
    given |= {"positive": words, "negative": words, "latent_image": latent, "denoise": 1.0}
    plain, pulled = (nodes["GlideSampler"]().sample(m, **given)[0] for m in (model, guided))
    assert torch.isfinite(pulled).all() and not torch.allclose(plain, pulled, atol=1e-3)


def test_it_scores_images_between_minus_one_and_one() -> None:
    image = torch.rand(3, 40, 60, 3)
    node: Any = NODE_CLASS_MAPPINGS["GlideClipScore"]()
    ranked, lines = node.score(image, load(), "an apple", 0)["result"]
    assert ranked.shape == image.shape
    assert all(-1 <= float(line.split()[0]) <= 1 for line in lines.splitlines())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "ViT-B-33"}, "no architecture 'ViT-B-33'"),
        ({"weights": "tiny_base.safetensors"}, "could not be loaded as open_clip's"),
        ({"weights": "(by tag)", "tag": "none"}, "no weights 'none'"),
        (
            {"weights": "(by tag)", "architecture": "ViT-B-32", "tag": "laion2b_s34b_b79k"},
            "downloading is not allowed",
        ),
    ],
)
def test_weights_that_cannot_be_loaded_are_named(
    changes: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names: None)
    with pytest.raises(GlideError, match=words):
        load(**changes)

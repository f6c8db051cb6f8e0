"""The config comes from the names and shapes of the tensors, whatever the file is called."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from glide_core.checkpoints.catalog import find
from glide_core.checkpoints.detect import config_of, detect_model_type
from glide_core.checkpoints.files import TensorFile
from glide_core.checkpoints.loading import convert, load_model
from glide_core.config import (
    BASE,
    CLIP,
    KINDS,
    UPSAMPLER,
    ClipConfig,
    GlideConfig,
    ScheduleConfig,
)
from glide_core.errors import GlideError
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip
from tools.tiny_models import TINY_CLIP, tiny_variant

Shapes = dict[str, tuple[int, ...]]
RELEASED = {k: replace(UPSAMPLER if "upsampler" in k else BASE, kind=k) for k in KINDS}


def released(name: str) -> Shapes:
    """Names and shapes of a released UNet file, as OpenAI's code builds it."""
    data = Path(__file__).parents[1] / "data" / "released_layouts.json.gz"
    layouts = json.loads(gzip.decompress(data.read_bytes()))
    stored = layouts["upsampler" if name.startswith("upsampler") else "base"]
    shapes = {key: tuple(shape) for key, shape in stored.items()}
    if name.endswith("inpaint"):
        width, _, *kernel = shapes["input_blocks.0.0.weight"]
        shapes["input_blocks.0.0.weight"] = (width, RELEASED[name].in_channels, *kernel)
    return shapes


def released_clip_encoder(encoder: str) -> Shapes:
    """Names and shapes of a released CLIP file, written out from its description."""
    n = 768 if encoder == "image" else 512
    norm = {"ln.g": (n,), "ln.b": (n,)}
    if encoder == "image":
        head = {"w_t": (1000, n), "patch_proj": (n, 3, 4, 4), "w_pos": (257, n), **norm}
    else:
        head = {"w_voc": (65536, n), "w_pos": (77, n)}
    shapes = {f"blocks.input.{key}": shape for key, shape in head.items()}
    square = {f"f_{part}.w": (n, n) for part in "qkvc"} | {f"f_{part}.b": (n,) for part in "qvc"}
    wide = {"f_1.w": (4 * n, n), "f_1.b": (4 * n,), "f_2.w": (n, 4 * n), "f_2.b": (n,)}
    for i in range(12):
        for key, shape in {**norm, **square}.items():
            shapes[f"blocks.block_{i}.f_attn.{key}"] = shape
        for key, shape in {**norm, **wide}.items():
            shapes[f"blocks.block_{i}.f_mlp.{key}"] = shape
    return shapes | {
        f"blocks.output.{key}": shape for key, shape in {**norm, "f.w": (512, n)}.items()
    }


def shapes_of(config: GlideConfig | ClipConfig) -> Shapes:
    """Names and shapes of our model."""
    with torch.device("meta"):
        if isinstance(config, GlideConfig):
            state = GlideModel(config).openai_state_dict()
        else:
            state = NoisyClip(config).state_dict()
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def shaped(shapes: Shapes, metadata: dict[str, str] | None = None) -> TensorFile:
    """A file with tensors of these shapes."""
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    return TensorFile(Path("x.safetensors"), tensors, metadata or {})


def count(shapes: Shapes) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())


SMALL = tiny_variant(
    text={"context_length": 32, "width": 64, "layers": 2},
    unet={
        "image_size": 64,
        "channel_mult": (1, 2, 2, 2),
        "attention_factors": (4, 8),
        "num_head_channels": 32,
    },
    schedule=ScheduleConfig(prediction_type="v_prediction"),
)


@pytest.mark.parametrize("kind", list(RELEASED))
def test_a_released_model_is_its_preset(kind: str) -> None:
    shapes = released(kind)
    assert config_of(shaped(shapes)) == RELEASED[kind]
    assert len(shapes) == (797 if "upsampler" in kind else 783)
    assert count(shapes) == find(f"openai-{kind}").parameters


@pytest.mark.parametrize("kind", list(RELEASED))
def test_our_model_has_exactly_the_released_tensors(kind: str) -> None:
    assert shapes_of(RELEASED[kind]) == released(kind)


@pytest.mark.parametrize(("encoder", "tensors"), [("image", 188), ("text", 185)])
def test_a_released_clip_encoder_is_the_preset(encoder: str, tensors: int) -> None:
    shapes = released_clip_encoder(encoder)
    assert detect_model_type(shaped(shapes)) == f"clip-{encoder}"
    assert config_of(shaped(shapes)) == CLIP
    assert len(shapes) == tensors
    assert count(shapes) == find(f"openai-clip-{encoder}").parameters


def test_our_clip_has_exactly_the_released_tensors() -> None:
    encoders = ("image", "text")
    both = {f"{t}.{k}": shape for t in encoders for k, shape in released_clip_encoder(t).items()}
    assert shapes_of(CLIP) == both
    assert config_of(shaped(both)) == CLIP


@pytest.mark.parametrize("preset", RELEASED.values(), ids=str)
@pytest.mark.parametrize("attention", [(), (1,), (2, 4)])
def test_attention_and_depth_are_read_level_by_level(
    preset: GlideConfig, attention: tuple[int, ...]
) -> None:
    unet = replace(
        preset.unet,
        image_size=32,
        model_channels=64,
        num_res_blocks=2,
        channel_mult=(1, 2, 3),
        attention_factors=attention,
    )
    config = replace(preset, unet=unet, text=replace(preset.text, layers=3))
    assert config_of(shaped(shapes_of(config))) == config


def test_metadata_supplies_what_shapes_do_not_determine() -> None:
    shapes = shapes_of(SMALL)
    assert config_of(shaped(shapes, {"glide": SMALL.to_json()})) == SMALL


def test_clip_metadata_fills_in_heads_and_tokenizer() -> None:
    config = replace(
        TINY_CLIP,
        image_size=32,
        patch_size=8,
        image_width=96,
        image_heads=3,
        image_layers=2,
        logit_scale=20.0,
    )
    shapes = shapes_of(config)
    assert config_of(shaped(shapes, {"glide": config.to_json()})) == config


def test_metadata_that_contradicts_the_tensors_is_refused_by_tensor(tmp_path: Path) -> None:
    wrong = replace(SMALL, text=replace(SMALL.text, layers=7)).to_json()
    state = GlideModel(SMALL).openai_state_dict()
    save_file(state, tmp_path / "x.safetensors", metadata={"glide": wrong})
    missing = r"x\.safetensors does not fit .*missing: transformer\.resblocks\.2"
    with pytest.raises(GlideError, match=missing):
        load_model(tmp_path / "x.safetensors")
    with pytest.raises(GlideError, match=missing):
        convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors")


@pytest.mark.parametrize("stored", ["{", "[]", "{}", '{"unet": {"depth": 3}}', "null"])
def test_metadata_that_cannot_be_read_is_refused(stored: str) -> None:
    shapes = shapes_of(SMALL)
    with pytest.raises(GlideError, match="cannot be read"):
        config_of(shaped(shapes, {"glide": stored}))


def test_undetermined_head_widths_are_an_error() -> None:
    odd = replace(SMALL, text=replace(SMALL.text, width=96, heads=3))
    shapes = shapes_of(odd)
    with pytest.raises(GlideError, match="attention heads"):
        config_of(shaped(shapes))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["model.diffusion_model.input_blocks.0.0.weight"], "Stable Diffusion checkpoint"),
        (["input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"], "Stable Diffusion UNet"),
        (["down_blocks.0.attentions.0.transformer_blocks.0.x"], "Stable Diffusion UNet"),
        (["down_blocks.0.resnets.0.conv1.weight"], "diffusers"),
        (["lora_unet.lora_up.weight"], "LoRA"),
        (["first_stage_model.encoder.conv_in.weight"], "VAE"),
        (["visual.conv1.weight", "token_embedding.weight"], "ordinary CLIP"),
        (["input_blocks.0.0.weight", "out.2.weight"], "without a text encoder"),
        (["token_embedding.weight"], "without its UNet"),
        (["conv.weight"], "conv.weight"),
        ([], "no tensor"),
    ],
)
def test_another_kind_of_model_is_named(keys: list[str], said: str) -> None:
    with pytest.raises(GlideError, match=said) as caught:
        config_of(shaped(dict.fromkeys(keys, (8, 8))))
    assert "x.safetensors" in str(caught.value)
    assert "Expected" in str(caught.value)


@pytest.mark.parametrize("gone", ["out.2.weight", "time_embed.0.weight", "positional_embedding"])
def test_a_missing_tensor_is_named(gone: str) -> None:
    shapes = released("base")
    del shapes[gone]
    with pytest.raises(GlideError, match=gone):
        config_of(shaped(shapes))


def test_odd_input_channels_are_explained() -> None:
    shapes = released("base")
    shapes["input_blocks.0.0.weight"] = (192, 5, 3, 3)
    with pytest.raises(GlideError, match=r"5 input channels.*7 \(inpaint\)"):
        config_of(shaped(shapes))


def test_a_vocabulary_without_a_tokenizer_is_refused() -> None:
    shapes = released("base")
    shapes["token_embedding.weight"] = (1234, 512)
    with pytest.raises(GlideError, match="1234 tokens"):
        config_of(shaped(shapes))

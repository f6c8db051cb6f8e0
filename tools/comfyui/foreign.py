"""A tiny SD-class model and a tiny open_clip CLIP, both with random weights."""

from __future__ import annotations

from typing import Any

import torch


def latent_model() -> tuple[Any, Any, Any]:
    """MODEL, VAE and CONDITIONING of a model with 4-channel latents, 8 times smaller."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.sd
    import comfy.supported_models
    from comfy.ldm.models.autoencoder import AutoencoderKL

    unet = {
        "image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32,
        "num_res_blocks": [1, 1], "channel_mult": (1, 1), "transformer_depth": [1, 1],
        "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1,
        "use_spatial_transformer": True, "context_dim": 16, "num_heads": 2,
        "use_linear_in_transformer": False, "adm_in_channels": None, "use_checkpoint": False,
    }  # fmt: skip
    config = comfy.supported_models.SD15(unet)
    config.unet_config["num_head_channels"] = -1
    config.unet_config["num_heads"] = 2
    config.set_inference_dtype(torch.float32, None)
    torch.manual_seed(3)
    model = config.get_model({}, "")
    randomize(model.diffusion_model)
    patcher = comfy.model_patcher.ModelPatcher(
        model, load_device=comfy.model_management.get_torch_device(), offload_device="cpu"
    )
    network = {
        "double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3,
        "ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [],
        "dropout": 0.0,
    }  # fmt: skip
    parameters = {"ddconfig": network, "embed_dim": 4}
    source = AutoencoderKL(**parameters)
    randomize(source)
    vae = comfy.sd.VAE(sd=source.state_dict(), config={"params": parameters}, dtype=torch.float32)
    conditioning = [[torch.randn(1, 8, 16), {}]]
    return patcher, vae, conditioning


def randomize(module: torch.nn.Module) -> None:
    """Set every weight: ComfyUI's layers leave theirs uninitialised."""
    for name, parameter in module.named_parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        noise = torch.randn_like(parameter) * (fan_in**-0.5 if parameter.ndim > 1 else 0.02)
        parameter.data = noise + (1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0)
    module.requires_grad_(False)


def open_clip_model() -> tuple[torch.nn.Module, Any]:
    """An open_clip CLIP of 32-pixel images, and a tokenizer of its vocabulary."""
    import open_clip

    torch.manual_seed(4)
    with torch.inference_mode(False):
        model = open_clip.CLIP(
            embed_dim=16,
            vision_cfg={
                "image_size": 32,
                "patch_size": 8,
                "width": 32,
                "layers": 1,
                "head_width": 16,
            },
            text_cfg={"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
        )
    model.visual.image_mean = open_clip.OPENAI_DATASET_MEAN  # as open_clip.create_model sets them
    model.visual.image_std = open_clip.OPENAI_DATASET_STD

    def tokenize(texts: list[str]) -> torch.Tensor:
        rows = [[min(ord(c) % 62, 61) for c in text][:14] for text in texts]
        return torch.tensor([[62, *row, 63, *[0] * (14 - len(row))] for row in rows])

    return model.eval(), tokenize

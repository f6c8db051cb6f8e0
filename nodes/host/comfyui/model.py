"""GLIDE's UNet as ComfyUI's MODEL: schedules, conditions, memory, and the learned variance."""

from __future__ import annotations

import inspect
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.supported_models_base
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor
from torch.nn import functional as F

from glide_core.config import GlideConfig
from glide_core.models.glide import GlideModel
from glide_core.models.text_encoder import TextFeatures
from glide_core.models.unet import UNet

from ..values import LOW_RES, POOLED
from .checkpoint_compat import saved_extras
from .inpaint_cond import inpaint_condition, resize
from .model_sampling import EpsSigmas, VelocitySigmas, clamp_start_sigma, sampling_settings
from .operations import GlideOperations
from .patches import ModelPatches
from .per_image_noise import per_image_noise
from .prepare import check_images, check_text, prepare_sampling
from .text import LoadedText
from .versions import archive_dtypes, model_patcher

VARIANCE_SINK = "glide_variance"  # transformer_options key: a `VarianceSink` that wants variances


class PixelLatents(comfy.latent_formats.LatentFormat):
    """Latents that are the image: 3 channels, 1:1, in [-1, 1]; previews need no decoder."""

    latent_channels = 3
    spacial_downscale_ratio = 1  # ComfyUI's spelling (0.8 and newer)

    def __init__(self) -> None:
        self.latent_rgb_factors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]

    def process_in(self, latent: Tensor) -> Tensor:
        return latent

    def process_out(self, latent: Tensor) -> Tensor:
        return latent


class GlideModelConfig(comfy.supported_models_base.BASE):
    """A GlideConfig in the form in which ComfyUI carries a model's description."""

    unet_extra_config: dict[str, Any] = {}
    latent_format = PixelLatents
    text_encoder_key_prefix = ["text_encoders."]
    vae_key_prefix = ["vae."]
    # float16 first: it is what OpenAI ran the released models in
    supported_inference_dtypes = [torch.float16, torch.bfloat16, torch.float32]
    memory_usage_factor = 1.0  # unused: GlideBaseModel estimates its own memory

    def __init__(self, config: GlideConfig) -> None:
        # model_channels: FreeU tells the levels of the UNet by it
        super().__init__(
            {
                "glide_config": config,
                "in_channels": config.in_channels,
                "model_channels": config.unet.model_channels,
            }
        )
        self.glide_config = config
        self.sampling_settings = sampling_settings(config.schedule)
        self.custom_operations = GlideOperations

    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> GlideBaseModel:
        return GlideBaseModel(self, device=device)


class GlideUNet(UNet):
    """glide_core's UNet with the call that ComfyUI makes."""

    def __init__(
        self, glide_config: GlideConfig, *, operations: Any, device: Any = None, **options: Any
    ) -> None:
        with torch.device("meta"):
            super().__init__(glide_config, operations=operations)
        self.dtype: torch.dtype = options["dtype"]

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor,
        low_res: Tensor | None = None,
        inpaint: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
    ) -> Tensor:
        """Predict eps or v, [B, C, H, W] float32; the variance goes to the sink, if there is one.

        inpaint: [B, C + 1, H, W], the masked image and its keep mask.
        """
        options = transformer_options or {}
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        run = WrapperExecutor.new_class_executor(self._predict, self, wrappers)
        return run.execute(x, timesteps, context, y, low_res, inpaint, control, options)

    def _predict(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor,
        low_res: Tensor | None,
        inpaint: Tensor | None,
        control: Any,
        transformer_options: dict[str, Any],
    ) -> Tensor:
        del control
        channels, (height, width) = self.config.unet.channels, x.shape[-2:]
        x, low_res, inpaint = (pad_to_grid(v, self.config) for v in (x, low_res, inpaint))
        image = keep_mask = None
        if inpaint is not None:
            image, keep_mask = inpaint[:, :channels], inpaint[:, channels:]
        features = TextFeatures(context, y)
        raw = super().forward(
            x,
            timesteps,
            features,
            low_res=low_res,
            image=image,
            keep_mask=keep_mask,
            patches=ModelPatches(transformer_options, self.config, context, x.shape),
        )[..., :height, :width]
        sink = transformer_options.get(VARIANCE_SINK)
        if sink is not None:
            sink.put(raw[:, channels:], transformer_options["cond_or_uncond"])
        return raw[:, :channels]  # wrappers (EasyCache) expect the shape of x


def pad_to_grid(x: Tensor | None, config: GlideConfig) -> Tensor | None:
    """Repeat the last row and column of [B, C, H, W] up to a size that the UNet can halve.

    Areas of prompts have any size: the bounds of a resized mask, a share of an odd width.
    """
    if x is None:
        return None
    step = 2 ** (len(config.unet.channel_mult) - 1) * config.unet.patch_size
    bottom, right = -x.shape[-2] % step, -x.shape[-1] % step
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


class VarianceSink:
    """Collects the learned variances of one model call, of the conditioned and unconditioned part.

    An object, because ComfyUI copies the dicts and lists of transformer_options on their way.
    """

    def __init__(self) -> None:
        self._found: dict[int, list[Tensor]] = {}
        self._closed = False

    def close(self) -> None:
        """Take no more: the calls that follow are those of guidance patches."""
        self._closed = True

    def put(self, variance: Tensor, cond_or_uncond: list[int]) -> None:
        if self._closed:
            return
        parts = variance.chunk(len(cond_or_uncond))
        for index, part in zip(cond_or_uncond, parts, strict=True):
            self._found.setdefault(index, []).append(part)

    def take(self, index: int, shape: torch.Size) -> Tensor | None:
        """Give one prediction's variance, index 0: conditioned, 1: unconditioned.

        The mean where a prompt has several parts; None where none covers the whole image.
        """
        whole = [v for v in self._found.get(index, []) if v.shape == shape]
        return torch.stack(whole).mean(dim=0) if whole else None


class GlideBaseModel(comfy.model_base.BaseModel):
    """GLIDE among ComfyUI's models."""

    def __init__(self, model_config: GlideModelConfig, device: Any = None) -> None:
        config = model_config.glide_config
        v = config.schedule.prediction_type == "v_prediction"
        kind = comfy.model_base.ModelType.V_PREDICTION if v else comfy.model_base.ModelType.EPS
        super().__init__(model_config, kind, device=device, unet_model=GlideUNet)
        self.model_sampling = VelocitySigmas(model_config) if v else EpsSigmas(model_config)
        self.glide_config = config
        self.text: LoadedText | None = None  # for prompts that another text encoder encoded

    def _apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Give x0 for x at noise level t (a sigma), in float32."""
        options = transformer_options or {}
        dtype = self.manual_cast_dtype or self.get_dtype()
        given = {k: v.to(x.device) for k, v in kwargs.items() if k in ("y", "low_res")}
        if c_concat is not None:
            given["inpaint"] = c_concat.to(x.device)
        out = self.diffusion_model(
            self.model_sampling.calculate_input(t, x).to(dtype),
            self.model_sampling.timestep(t).float(),
            context=c_crossattn.to(x.device, dtype),
            control=control,
            transformer_options=options,
            **given,
        ).float()
        # At sigma 20000 an eps rounded to half precision puts x0 off by 20: eps stays float32.
        return self.model_sampling.calculate_denoised(t, out, x)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Turn one CONDITIONING into the model's inputs; GlideError for one that does not fit."""
        states, pooled = kwargs.get("cross_attn"), kwargs.get(POOLED)
        check_text(self.glide_config, states, pooled, kwargs)
        check_images(self.glide_config, kwargs, kwargs["noise"].shape)
        out: dict[str, Any] = {
            "c_crossattn": comfy.conds.CONDCrossAttn(states),
            "y": comfy.conds.CONDRegular(pooled),
        }
        noise = kwargs["noise"]
        if self.glide_config.is_inpaint:
            out["c_concat"] = comfy.conds.CONDNoiseShape(inpaint_condition(noise, kwargs))
        if self.glide_config.is_upsampler:
            low_res = resize(kwargs[LOW_RES].to(noise.device), noise.shape[-2:])
            out["low_res"] = comfy.conds.CONDNoiseShape(low_res)
        return out

    def state_dict_for_saving(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Give everything GLIDE Loader needs to load the file again, the text encoder included."""
        given = inspect.signature(super().state_dict_for_saving).bind(*args, **options)
        if given.arguments.get("clip_state_dict") is None and self.text is not None:
            given.arguments["clip_state_dict"] = self.text.clip.get_sd()
        found = super().state_dict_for_saving(*given.args, **given.kwargs)
        return {**found, **saved_extras(self.glide_config)}

    def memory_required(self, input_shape: Any, cond_shapes: Any = None, **unused: Any) -> float:
        """Estimate the bytes one forward pass needs beside the weights.

        The skip connections of the whole way down, and about twelve tensors of the first level's
        width (block input, norm, activation, convolution). Peaks measured on the released sizes
        are 0.6 to 1.3 times this.
        """
        unet = self.glide_config.unet
        batch, height, width = input_shape[0], input_shape[-2], input_shape[-1]
        width /= unet.patch_size**2  # of the network's own grid
        per_pixel = 0.0
        for level, mult in enumerate(unet.channel_mult):
            per_pixel += (unet.num_res_blocks + 1) * mult * unet.model_channels / 4**level
        per_pixel += 6 * 2 * unet.channel_mult[0] * unet.model_channels
        dtype = self.manual_cast_dtype or self.get_dtype()
        return batch * height * width * per_pixel * comfy.model_management.dtype_size(dtype)


def build_model(
    glide: GlideModel,
    dtype: torch.dtype | None,
    text: LoadedText,
    *,
    disable_dynamic: bool = False,
) -> Any:
    """Put a GLIDE model's UNet into a ModelPatcher; its weights are taken over, not copied.

    dtype: of the heavy layers (`GlideModel.use_dtype`); None for ComfyUI's choice for the device.
    disable_dynamic: no DynamicVRAM, whatever ComfyUI uses for other models.
    """
    load_device = comfy.model_management.get_torch_device()
    supported = GlideModelConfig.supported_inference_dtypes
    if dtype is None:
        size = sum(p.numel() for p in glide.unet.parameters())
        dtype = comfy.model_management.unet_dtype(
            device=load_device, model_params=size, supported_dtypes=supported
        )
    cast = comfy.model_management.unet_manual_cast(dtype, load_device, supported)
    config = GlideModelConfig(glide.config)
    config.set_inference_dtype(dtype, cast)
    model = config.get_model({})
    weights = glide.use_dtype(dtype).unet.state_dict()
    model.diffusion_model.load_state_dict(weights, assign=True)
    archive_dtypes(model.diffusion_model)  # the assigned weights are of several dtypes
    model.requires_grad_(False).eval()
    model.text = text
    patcher = model_patcher(
        model,
        load_device=load_device,
        offload_device=comfy.model_management.unet_offload_device(),
        disable_dynamic=disable_dynamic,
    )
    patcher.set_model_sampler_post_cfg_function(clip_denoised)
    patcher.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, "glide", prepare_sampling)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "glide", clamp_start_sigma)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "glide", per_image_noise)
    return patcher


def clip_denoised(args: dict[str, Any]) -> Tensor:
    """Clamp the guided x0 to [-1, 1], as the reference's samplers do at every step."""
    return args["denoised"].clamp(-1.0, 1.0)

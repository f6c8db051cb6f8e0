"""ComfyUI's built-in nodes, one run each on the bundled model, for tools/compatibility.py.

A case returns the samples of a run whose only change is the node. Where a node acts on one part of
the image, the case measures that part and adds the result to the row with `Bench.remark`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recipes.emoji.subjects import border_colour

if TYPE_CHECKING:
    from tools.compatibility import Bench

Case = Callable[["Bench"], Tensor]
CACHE = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
# MODEL to MODEL: the node and its inputs
PATCHES: dict[str, dict[str, Any]] = {
    "FreeU": {"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.2},
    "FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
    "PatchModelAddDownscale": {
        "block_number": 3, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.35,
        "downscale_after_skip": True, "downscale_method": "bicubic", "upscale_method": "bicubic",
    },
    "RescaleCFG": {"multiplier": 0.7},
    "CFGZeroStar": {},
    "CFGNorm": {"strength": 1.0},
    "APG": {"eta": 1.0, "norm_threshold": 5.0, "momentum": 0.0},
    "TCFG": {},
    "Mahiro": {},
    "FreSca": {"scale_low": 1.0, "scale_high": 1.25, "freq_cutoff": 20},
    "Epsilon Scaling": {"scaling_factor": 1.005},
    "EasyCache": CACHE,
    "LazyCache": CACHE,
    "ModelComputeDtype": {"dtype": "bf16"},
    "ModelSamplingDiscrete": {"sampling": "eps", "zsnr": False},
    "ModelSamplingDiscrete (v_prediction)": {"sampling": "v_prediction", "zsnr": False},
    "ModelSamplingDiscrete (v_prediction, zsnr)": {"sampling": "v_prediction", "zsnr": True},
    "PerturbedAttentionGuidance": {"scale": 3.0},
    "SelfAttentionGuidance": {"scale": 0.5, "blur_sigma": 2.0},
    "HyperTile": {"tile_size": 256, "swap_size": 2, "max_depth": 0, "scale_depth": False},
    "TomePatchModel": {"ratio": 0.3},
    "UNetSelfAttentionMultiply": {"q": 1.2, "k": 1.0, "v": 1.0, "out": 1.0},
}  # fmt: skip
SIGMAS: dict[str, dict[str, Any]] = {
    "KarrasScheduler": {"sigma_max": 80.0, "sigma_min": 0.01, "rho": 7.0},
    "ExponentialScheduler": {"sigma_max": 80.0, "sigma_min": 0.01},
    "PolyexponentialScheduler": {"sigma_max": 80.0, "sigma_min": 0.01, "rho": 1.0},
    "LaplaceScheduler": {"sigma_max": 80.0, "sigma_min": 0.01, "mu": 0.0, "beta": 0.5},
    "VPScheduler": {"beta_d": 19.9, "beta_min": 0.1, "eps_s": 0.001},
    "AlignYourStepsScheduler": {"model_type": "SD1", "denoise": 1.0},
    "GITSScheduler": {"coeff": 1.2, "denoise": 1.0},
    "BetaSamplingScheduler": {"alpha": 0.6, "beta": 0.6},
    "SDTurboScheduler": {"denoise": 1.0},
}
WITH_MODEL = ("BetaSamplingScheduler", "SDTurboScheduler")
STEPS, CFG = 20, 1.5  # CFG: the bundled model's own


def patched(node: str, inputs: dict[str, Any]) -> Case:
    def sample(bench: Bench) -> Tensor:
        name = node.split(" (")[0]
        return bench.builtin(model=bench.comfy(name, model=bench.model, **inputs))

    return sample


def custom(bench: Bench, *, guider: Any = None, sigmas: Any = None, latent: Any = None) -> Tensor:
    """SamplerCustomAdvanced: CFGGuider and the normal scheduler unless given."""
    comfy = bench.comfy
    if guider is None:
        guider = comfy(
            "CFGGuider",
            model=bench.model,
            positive=bench.positive,
            negative=bench.negative,
            cfg=CFG,
        )
    if sigmas is None:
        sigmas = comfy(
            "BasicScheduler", model=bench.model, scheduler="normal", steps=STEPS, denoise=1.0
        )
    out = comfy(
        "SamplerCustomAdvanced",
        noise=comfy("RandomNoise", noise_seed=0),
        guider=guider,
        sampler=comfy("KSamplerSelect", sampler_name="euler"),
        sigmas=sigmas,
        latent_image=latent or bench.empty,
    )
    return out[0]["samples"].clone()


def scheduled(node: str, inputs: dict[str, Any]) -> Case:
    def sample(bench: Bench) -> Tensor:
        more = {"model": bench.model} if node in WITH_MODEL else {}
        steps = 10 if node == "SDTurboScheduler" else STEPS
        return custom(bench, sigmas=bench.comfy(node, steps=steps, **more, **inputs))

    return sample


def guided(node: str, **inputs: Any) -> Case:
    """A guider instead of CFGGuider; inputs that begin with @ name conditionings of the bench."""

    def sample(bench: Bench) -> Tensor:
        given = {
            name: getattr(bench, value[1:]) if str(value).startswith("@") else value
            for name, value in inputs.items()
        }
        return custom(bench, guider=bench.comfy(node, model=bench.model, **given))

    return sample


def conditioned(change: Callable[[Bench], Any]) -> Case:
    return lambda bench: bench.builtin(positive=change(bench))


def weighted(bench: Bench) -> Any:
    """Every second word at 1.3: subject and background stay, other pixels must change."""
    captions = [
        " ".join(f"({word}:1.3)" if i % 2 else word for i, word in enumerate(caption.split()))
        for caption in bench.captions
    ]
    return bench.prompts(captions)


def other(bench: Bench) -> Any:
    """The next captions of the list, for nodes that take a second prompt."""
    return bench.prompts(bench.captions[1:] + bench.captions[:1])


def halves(bench: Bench, *, by_mask: bool) -> Tensor:
    """The requested prompt on the left, a red background on the right."""
    right = bench.prompts(["a fox on a red background"] * len(bench.captions))
    comfy, left = bench.comfy, bench.positive
    if by_mask:
        mask = torch.zeros(1, 64, 64)
        mask[:, :, 32:] = 1
        parts = [
            comfy(
                "ConditioningSetMask",
                conditioning=c,
                mask=m,
                strength=1.0,
                set_cond_area="default",
            )
            for c, m in ((left, 1 - mask), (right, mask))
        ]
    else:
        parts = [
            comfy(
                "ConditioningSetAreaPercentage",
                conditioning=c,
                width=0.5,
                height=1.0,
                x=x,
                y=0.0,
                strength=1.0,
            )
            for c, x in ((left, 0.0), (right, 0.5))
        ]
    found = bench.builtin(
        positive=comfy("ConditioningCombine", conditioning_1=parts[0], conditioning_2=parts[1])
    )
    colours = {name: bench.sprites.palette[i] for i, name in enumerate(bench.sprites.colours)}
    asked = [bench.sprites.colours[scene.background] for scene in bench.scenes]
    as_asked = [
        border_colour(image[..., :16], colours) == colour
        for image, colour in zip(found, asked, strict=True)
    ]
    red = [border_colour(image[..., 48:], colours) == "red" for image in found]
    bench.remark(f"left as asked in {sum(as_asked)}, right red in {sum(red)} of {len(found)}")
    return found


def two_prompts(bench: Bench) -> Any:
    """The requested prompt for the first 70 % of the steps, the next caption for the rest."""
    comfy = bench.comfy
    early = comfy("ConditioningSetTimestepRange", conditioning=bench.positive, start=0.0, end=0.7)
    late = comfy("ConditioningSetTimestepRange", conditioning=other(bench), start=0.7, end=1.0)
    return comfy("ConditioningCombine", conditioning_1=early, conditioning_2=late)


def image_to_image(bench: Bench) -> Tensor:
    """The reference images through VAEEncode and half of the steps."""
    pixels = bench.comfy("VAEDecode", vae=bench.vae, samples={"samples": bench.reference})
    latent = bench.comfy("VAEEncode", vae=bench.vae, pixels=pixels)
    return bench.builtin(latent_image=latent, denoise=0.5)


def kept(bench: Bench, *, differential: bool = False, for_inpaint: bool = False) -> Tensor:
    """The right half of the reference images repainted by the base model."""
    comfy, model = bench.comfy, bench.model
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    latent = {"samples": bench.reference}
    if for_inpaint:
        pixels = comfy("VAEDecode", vae=bench.vae, samples=latent)
        latent = comfy(
            "VAEEncodeForInpaint", vae=bench.vae, pixels=pixels, mask=mask, grow_mask_by=0
        )
    else:
        latent = comfy("SetLatentNoiseMask", samples=latent, mask=mask)
    if differential:
        model = comfy("DifferentialDiffusion", model=model)
    found = bench.builtin(model=model, latent_image=latent)
    changed = (found - bench.reference)[..., :32].abs().max()
    bench.remark(f"the kept half changed by {float(changed):.3f} at most")
    return found


def two_stages(bench: Bench) -> Tensor:
    common = {
        "model": bench.model, "positive": bench.positive, "negative": bench.negative,
        "noise_seed": 0, "steps": STEPS, "cfg": CFG, "sampler_name": "euler",
        "scheduler": "normal",
    }  # fmt: skip
    half = bench.comfy(
        "KSamplerAdvanced",
        **common,
        add_noise="enable",
        latent_image=bench.empty,
        start_at_step=0,
        end_at_step=10,
        return_with_leftover_noise="enable",
    )
    done = bench.comfy(
        "KSamplerAdvanced",
        **common,
        add_noise="disable",
        latent_image=half,
        start_at_step=10,
        end_at_step=100,
        return_with_leftover_noise="disable",
    )
    return done["samples"].clone()


def merged(node: str) -> Case:
    """Merged with the same file loaded again, or with their difference, which is zero."""

    def sample(bench: Bench) -> Tensor:
        comfy = bench.comfy
        again = comfy("GlideLoader", checkpoint="bundled/base.safetensors", dtype="float32")[0]
        if node == "ModelMergeSimple":
            return bench.builtin(model=comfy(node, model1=bench.model, model2=again, ratio=0.5))
        difference = comfy("ModelMergeSubtract", model1=bench.model, model2=again, multiplier=1.0)
        return bench.builtin(model=comfy("ModelMergeAdd", model1=bench.model, model2=difference))

    return sample


def empty_builtin(bench: Bench) -> Tensor:
    inputs = {"width": 64, "height": 64, "batch_size": len(bench.captions)}
    latent = bench.comfy("EmptyLatentImage", **inputs)
    if "downscale_ratio_spacial" not in latent:  # older versions divide by 8 and do not say so
        latent = bench.comfy("EmptyLatentImage", **{**inputs, "width": 512, "height": 512})
    return bench.builtin(latent_image=latent)


def tiled(bench: Bench) -> Tensor:
    """VAEDecodeTiled, then VAEEncodeTiled."""
    found = bench.builtin()
    pixels = bench.comfy(
        "VAEDecodeTiled", vae=bench.vae, samples={"samples": found}, tile_size=512, overlap=64
    )
    return bench.comfy("VAEEncodeTiled", vae=bench.vae, pixels=pixels, tile_size=512, overlap=64)[
        "samples"
    ]


def last_layer(bench: Bench) -> Any:
    own = bench.clip
    bench.clip = bench.comfy("CLIPSetLastLayer", clip=own, stop_at_clip_layer=-2)
    try:
        return bench.prompts(bench.captions)
    finally:
        bench.clip = own


def sampler_custom(bench: Bench) -> Tensor:
    comfy = bench.comfy
    solver = {"solver_type": "midpoint", "eta": 0.0, "s_noise": 1.0, "noise_device": "cpu"}
    steps = {"scheduler": "normal", "steps": STEPS, "denoise": 1.0}
    out = comfy(
        "SamplerCustom", model=bench.model, add_noise=True, noise_seed=0, cfg=CFG,
        positive=bench.positive, negative=bench.negative, latent_image=bench.empty,
        sampler=comfy("SamplerDPMPP_2M_SDE", **solver),
        sigmas=comfy("BasicScheduler", model=bench.model, **steps),
    )  # fmt: skip
    return out[1]["samples"].clone()


CASES: dict[str, Case] = {
    "GlideEmptyLatent -> EmptyLatentImage": empty_builtin,
    "VAEDecodeTiled, VAEEncodeTiled": tiled,
    "KSamplerAdvanced, two stages": two_stages,
    "SamplerCustom, SamplerDPMPP_2M_SDE eta 0": sampler_custom,
    "SamplerCustomAdvanced, CFGGuider": custom,
    "BasicGuider": guided("BasicGuider", conditioning="@positive"),
    "DualCFGGuider": guided(
        "DualCFGGuider", cond1="@positive", cond2="@negative", negative="@negative",
        cfg_conds=CFG, cfg_cond2_negative=CFG, style="regular",
    ),
    "PerpNegGuider": guided(
        "PerpNegGuider", positive="@positive", negative="@negative",
        empty_conditioning="@negative", cfg=CFG, neg_scale=1.0,
    ),
    **{node: scheduled(node, inputs) for node, inputs in SIGMAS.items()},
    "CLIPTextEncode, every second word (:1.3)": conditioned(weighted),
    "CLIPSetLastLayer -2": conditioned(last_layer),
    "ConditioningCombine with another prompt": conditioned(
        lambda b: b.comfy("ConditioningCombine", conditioning_1=b.positive, conditioning_2=other(b))
    ),
    "ConditioningAverage 0.8 with another": conditioned(
        lambda b: b.comfy(
            "ConditioningAverage", conditioning_to=b.positive, conditioning_from=other(b),
            conditioning_to_strength=0.8,
        )
    ),
    "ConditioningConcat with another prompt": conditioned(
        lambda b: b.comfy(
            "ConditioningConcat", conditioning_to=b.positive, conditioning_from=other(b)
        )
    ),
    "ConditioningZeroOut as negative": lambda b: b.builtin(
        negative=b.comfy("ConditioningZeroOut", conditioning=b.negative)
    ),
    "ConditioningSetTimestepRange, two prompts": conditioned(two_prompts),
    "ConditioningSetMask, two halves": lambda b: halves(b, by_mask=True),
    "ConditioningSetAreaPercentage, two halves": lambda b: halves(b, by_mask=False),
    "VAEEncode, denoise 0.5": image_to_image,
    "SetLatentNoiseMask": kept,
    "VAEEncodeForInpaint": lambda b: kept(b, for_inpaint=True),
    "SetLatentNoiseMask, DifferentialDiffusion": lambda b: kept(b, differential=True),
    "ModelMergeSimple with itself": merged("ModelMergeSimple"),
    "ModelMergeSubtract, ModelMergeAdd": merged("ModelMergeAdd"),
    **{node: patched(node, inputs) for node, inputs in PATCHES.items()},
}  # fmt: skip

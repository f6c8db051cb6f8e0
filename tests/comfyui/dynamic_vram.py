"""What DynamicVRAM (default on NVIDIA since 0.16) does to the pack, on a machine without a GPU.

A stub replaces aimdo's native library and counts what is freed; the dynamic patchers run on the CPU
without a native buffer, so that whole images are sampled through them. Prints a line a probe and
exits 1 if one fails. test_dynamic_vram.py runs it in a process of its own, since the stub must be
there before ComfyUI is imported.
"""

from __future__ import annotations

import collections
import gc
import importlib
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

import torch

from tools.comfyui.checkpoints import temporary_checkpoints
from tools.comfyui.foreign import latent_model, open_clip_model
from tools.comfyui.inside import Inside

FREED: collections.Counter[tuple[str, Any]] = collections.Counter()


class StubLibrary:
    """Answers every native call; counts frees by pointer."""

    pointer = 1000

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            if name in ("hostbuf_free", "vbar_free"):
                FREED[(name, arguments[-1])] += 1
                return None
            if name in ("hostbuf_allocate", "vbar_allocate"):
                StubLibrary.pointer += 1
                return StubLibrary.pointer
            return {"vbar_get": 1 << 40, "get_devctx": 7}.get(name, 0)

        call.argtypes = call.restype = None  # type: ignore[attr-defined]
        self.__dict__[name] = call
        return call


class Probes:
    """Every method named `probe_...` is one probe."""

    def __init__(self, comfy: Any) -> None:
        self.comfy = comfy
        self.patching = importlib.import_module("comfy.model_patcher")
        dynamic, management = self.patching.ModelPatcherDynamic, comfy.management
        is_cpu = management.is_device_cpu

        def construct(cls: Any, *args: Any, **options: Any) -> Any:
            """Skip the return to a plain patcher that a CPU would get."""
            management.is_device_cpu = lambda device: False
            try:
                return self.patching.ModelPatcher.__new__(cls)
            finally:
                management.is_device_cpu = is_cpu

        def unload(patcher: Any, device: Any, memory: float = 0, **unused: Any) -> int:
            """Give back what was moved; there is no native buffer on a CPU to free."""
            restore = getattr(patcher, "restore_loaded_backups", lambda: 0)  # 0.24 and newer
            return int(restore())

        dynamic.__new__, dynamic.partially_unload = construct, unload
        self.patching.CoreModelPatcher = dynamic
        self.model, self.clip, _ = comfy.load()
        self.positive, self.negative = (comfy.prompt(self.clip, t) for t in ("a red fox", ""))

    def sample(self, model: Any) -> torch.Tensor:
        return self.comfy.ksampler(model, self.positive, self.negative, steps=2)  # type: ignore[no-any-return]

    def guided(self, **more: Any) -> Any:
        clip = self.comfy.load_clip()
        return self.comfy(
            "GlideClipGuidance", model=self.model, clip=clip, text="blue", scale=9.0, **more
        )

    def probe_glide_is_dynamic(self) -> None:
        assert self.model.is_dynamic()
        assert not self.clip.patcher.is_dynamic()  # hooks patch its weights

    def probe_copy_of_a_vae_owns_no_native_buffer(self) -> None:
        import comfy.ops

        copy_of = self.comfy.module("nodes.host.comfyui.gradient_patcher").managed_decoder
        conv = comfy.ops.disable_weight_init.Conv2d
        net = torch.nn.Sequential(conv(4, 64, 3), conv(64, 64, 3))
        for parameter in net.parameters():
            parameter.data.normal_()
        patcher = self.patching.ModelPatcherDynamic(
            net, load_device=torch.device("cuda:0"), offload_device=torch.device("cpu")
        )
        bar = patcher._vbar_get(create=True)
        net[1]._v = bar.alloc(1024)  # as ModelPatcherDynamic.load does
        vae = types.SimpleNamespace(first_stage_model=net, throw_exception_if_invalid=lambda: None)
        before = dict(FREED)
        copied = copy_of(vae)
        del copied
        gc.collect()
        assert before == dict(FREED), f"buffers of a VAE in use were freed: {dict(FREED)}"
        del vae, net, patcher, bar
        gc.collect()
        twice = {key: count for key, count in FREED.items() if count > 1}
        assert not twice, f"freed twice: {twice}"

    def probe_set_clip_hooks(self) -> None:
        import comfy.hooks

        group = comfy.hooks.HookGroup()
        hooked = self.comfy("SetClipHooks", clip=self.clip, schedule_clip=True,
                            apply_to_conds=True, hooks=group)  # fmt: skip
        self.comfy.prompt(hooked, "a fox")

    def probe_train_lora_clones(self) -> None:
        if "force_deepcopy" in self.patching.ModelPatcher.clone.__code__.co_varnames:
            copied = self.model.clone(force_deepcopy=True)
            assert copied.model is not self.model.model

    def probe_multi_gpu_clones(self) -> None:
        if hasattr(self.model, "deepclone_multigpu"):
            copied = self.model.deepclone_multigpu(torch.device("cuda:1"))
            assert copied.model is not self.model.model

    def probe_plain_copy_for_compilation(self) -> None:
        assert not self.model.clone(disable_dynamic=True).is_dynamic()

    def probe_dynamic_and_plain_sample_the_same(self) -> None:
        plain = self.model.clone(disable_dynamic=True)
        torch.testing.assert_close(self.sample(self.model), self.sample(plain), rtol=0, atol=1e-3)

    def probe_second_guided_run_equals_the_first(self) -> None:
        model = self.guided()
        first = self.sample(model)
        torch.testing.assert_close(self.sample(model), first, rtol=0, atol=1e-4)
        assert float((first - self.sample(self.model)).abs().max()) > 1e-3

    def probe_guided_run_after_unloading(self) -> None:
        model = self.guided()
        first = self.sample(model)
        self.comfy.management.unload_all_models()
        gc.collect()
        torch.testing.assert_close(self.sample(model), first, rtol=0, atol=1e-4)

    def probe_glide_beside_a_latent_model(self) -> None:
        """An SD-class model and its VAE, guided through a copy of it, between two GLIDE runs."""
        alone = self.sample(self.model)
        model, vae, conditioning = latent_model()
        module, tokenizer = open_clip_model()
        values = self.comfy.module("nodes.host.values")
        made = values.GlideClip("open_clip", "tiny", module, tokenizer)
        clip = self.comfy.module("nodes.host.comfyui.gradient_patcher").managed_clip(made)
        guided = self.comfy("GlideClipGuidance", model=model, clip=clip, text="blue", scale=50.0,
                            vae=vae, cutouts=2)  # fmt: skip
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        for _ in range(2):
            found = self.comfy.ksampler(
                guided, conditioning, conditioning, latent_image=latent, steps=2
            )
            assert torch.isfinite(found).all()
            pixels = self.comfy("VAEDecode", vae=vae, samples={"samples": found})
            assert torch.isfinite(pixels).all()
            torch.testing.assert_close(self.sample(self.model), alone, rtol=0, atol=1e-4)
        del guided
        gc.collect()
        assert not {key: count for key, count in FREED.items() if count > 1}


def main() -> int:
    from comfy_aimdo import control

    control.lib, control.devctxs = StubLibrary(), [7]
    failed = 0
    with temporary_checkpoints() as checkpoints:
        probes = Probes(Inside(checkpoints))
        names = [name for name in dir(Probes) if name.startswith("probe_")]
        for name in names:
            run: Callable[[], None] = getattr(probes, name)
            try:
                run()
                print(f"ok {name}")
            except Exception:  # every failure is a result
                failed += 1
                print(f"FAILED {name}\n{traceback.format_exc()}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""A GLIDE model: text encoder and UNet, as in one released checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from glide_core.config import GlideConfig
from glide_core.errors import GlideError
from glide_core.models.int8 import quantize_model
from glide_core.models.text_encoder import TextEncoder, TextFeatures
from glide_core.models.unet import AttentionBlock, ResBlock, UNet


class GlideModel(nn.Module):
    def __init__(
        self,
        config: GlideConfig,
        *,
        operations: Any = torch.nn,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.is_int8 = False
        with nullcontext() if device is None else torch.device(device):
            width = config.unet.embedding_width
            self.text = TextEncoder(config.text, width, operations=operations)
            self.unet = UNet(config, operations=operations)

    @property
    def device(self) -> torch.device:
        return self.text.padding_embedding.device

    def encode(self, ids: Tensor, mask: Tensor) -> TextFeatures:
        """Encode token ids [B, L] with mask [B, L] (True = a real token)."""
        return self.text(ids, mask)  # type: ignore[no-any-return]

    def forward(self, x_t: Tensor, t: Tensor, ids: Tensor, mask: Tensor, **extra: Tensor) -> Tensor:
        """Encode and predict in one call, for training; see `encode` and `UNet.forward`."""
        raw: Tensor = self.unet(x_t, t, self.encode(ids, mask), **extra)
        return raw

    def openai_state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of text encoder and UNet under OpenAI's flat names."""
        self._refuse_int8("its weights have other names and are rounded")
        return {**self.text.state_dict(), **self.unet.state_dict()}

    def _refuse_int8(self, reason: str) -> None:
        if self.is_int8:
            raise GlideError(f"this model is int8: {reason}. Load it again as float32.")

    def load_openai_state_dict(self, state: Mapping[str, Tensor], *, assign: bool = False) -> None:
        """Load OpenAI's flat names; RuntimeError lists wrong keys and shapes."""
        # a key starts with the name of a layer or parameter
        of_text = {key for key in state if hasattr(self.text, key.partition(".")[0])}
        text = {key: tensor for key, tensor in state.items() if key in of_text}
        unet = {key: tensor for key, tensor in state.items() if key not in of_text}
        self.text.load_state_dict(text, assign=assign)
        self.unet.load_state_dict(unet, assign=assign)

    def use_dtype(self, dtype: torch.dtype) -> GlideModel:
        """Convert the large layers to `dtype`; norms, embeddings and the output head stay float32.

        As in the reference (convert_to_fp16); the positional embeddings stay float32, too.
        int8: see `models.int8`; on a CPU, for inference, and not reversible.
        """
        if dtype == torch.int8 and self.is_int8:
            return self
        self._refuse_int8("it cannot change its dtype")
        if dtype == torch.int8:
            quantize_model(self.text, self.unet)
            self.is_int8 = True
            return self
        self.float()
        for module in self.modules():
            if isinstance(module, ResBlock):
                heavy = [module.in_layers[2], module.out_layers[3], module.skip_connection]
            elif isinstance(module, AttentionBlock):
                heavy = [module.qkv, module.encoder_kv, module.proj_out]
            else:
                continue
            for layer in heavy:
                layer.to(dtype)
        self.unet.input_blocks[0].to(dtype)
        self.text.transformer.resblocks.to(dtype)
        for block in self.text.transformer.resblocks:
            block.ln_1.float()
            block.ln_2.float()
        return self

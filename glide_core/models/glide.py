"""A GLIDE model: text encoder and UNet, as in one released checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from glide_core.config import GlideConfig
from glide_core.errors import GlideError
from glide_core.models.int8 import quantize_model
from glide_core.models.text_encoder import TextEncoder, TextFeatures
from glide_core.models.unet import UNet

# The large layers, by the ends of their names
_CONVOLUTIONS = ("input_blocks.0.0", "in_layers.2", "out_layers.3", "skip_connection")
_PROJECTIONS = ("qkv", "encoder_kv", "proj_out", "c_proj", "c_fc")


class GlideModel(nn.Module):
    def __init__(self, config: GlideConfig, *, operations: Any = torch.nn) -> None:
        super().__init__()
        self.config = config
        self.is_int8 = False
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
        self._check_float()
        return {**self.text.state_dict(), **self.unet.state_dict()}

    def load_openai_state_dict(self, state: Mapping[str, Tensor], *, assign: bool = False) -> None:
        """Load OpenAI's flat names; other entries of `state` are not read."""
        for part in (self.text, self.unet):
            part.load_state_dict({key: state[key] for key in part.state_dict()}, assign=assign)

    def use_dtype(self, dtype: torch.dtype) -> GlideModel:
        """Convert the large layers to `dtype`; norms, embeddings and the output head stay float32.

        As in the reference (convert_to_fp16); the positional embeddings stay float32, too.
        int8: see `models.int8`; on a CPU, for inference, and not reversible.
        """
        if dtype == torch.int8 and self.is_int8:
            return self
        self._check_float()
        if dtype == torch.int8:
            quantize_model(self.text, self.unet)
            self.is_int8 = True
            return self
        self.float()
        for name, module in self.named_modules():
            if name.endswith(_CONVOLUTIONS + _PROJECTIONS):
                module.to(dtype)
        return self

    def _check_float(self) -> None:
        if self.is_int8:
            raise GlideError(
                "this model is int8: its weights are rounded and have other names. Load it again "
                "as float32."
            )

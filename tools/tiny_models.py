"""Configurations of the models that the tests here write to files."""

from __future__ import annotations

from glide_core.config import ClipConfig, GlideConfig, TextConfig, UNetConfig

TINY = GlideConfig(
    text=TextConfig(n_vocab=2048, context_length=8, width=32, layers=1, heads=2),
    unet=UNetConfig(
        image_size=16,
        model_channels=32,
        num_res_blocks=1,
        channel_mult=(1, 2),
        attention_factors=(2,),
        num_head_channels=16,
    ),
    tokenizer="glide-small",
)
TINY_CLIP = ClipConfig(
    image_size=16,
    embedding=16,
    image_width=32,
    image_heads=2,
    image_layers=1,
    n_vocab=2048,
    context_length=8,
    text_width=32,
    text_heads=2,
    text_layers=1,
    tokenizer="glide-small",
)
LIKE_OPENAI = GlideConfig(  # all that OpenAI's models have in common, so that it can be detected
    text=TextConfig(n_vocab=2048, context_length=8, width=64, layers=1, heads=1),
    unet=UNetConfig(
        image_size=16,
        model_channels=64,
        num_res_blocks=1,
        channel_mult=(1, 1),
        attention_factors=(2,),
    ),
    tokenizer="glide-small",
)

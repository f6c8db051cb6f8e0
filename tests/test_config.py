"""A config is valid wherever it is made; an error names the field and what is allowed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glide_core.config import (
    BASE,
    CLIP,
    UPSAMPLER,
    ClipConfig,
    GlideConfig,
    SamplerConfig,
    ScheduleConfig,
    TextConfig,
    UNetConfig,
)
from glide_core.errors import GlideError

QUICK = settings(max_examples=150, deadline=None)


@pytest.mark.parametrize(
    ("config", "changes", "said"),
    [
        (BASE.unet, {"patch_size": 0}, "patch_size is 0. Expected 1 to 8."),
        (BASE.unet, {"patch_size": "x"}, "patch_size is 'x'. Expected 1 to 8."),
        (BASE.unet, {"patch_size": 5}, "image_size is 64. Expected a multiple of 40"),
        (BASE.unet, {"norm_groups": 7}, "norm_groups is 7, which does not divide"),
        (BASE.unet, {"num_head_channels": 7}, "num_head_channels is 7, which does not divide"),
        (BASE.unet, {"num_head_channels": 0}, "num_head_channels is 0. Expected 1 to"),
        (BASE.unet, {"dropout": -1}, "dropout is -1. Expected 0 to 1."),
        (BASE.unet, {"dropout": math.nan}, "dropout is nan. Expected 0 to 1."),
        (BASE.unet, {"attention_factors": 4}, "attention_factors is 4. Expected powers of two"),
        (BASE.unet, {"attention_factors": (2, 3)}, "attention_factors holds 3. Expected powers"),
        (BASE.unet, {"channel_mult": ()}, "channel_mult is (). Expected 1 to 10 integers"),
        (BASE.unet, {"channel_mult": (1, 0)}, "channel_mult[1] is 0. Expected 1 to 10 integers"),
        (BASE.unet, {"channels": True}, "channels is True. Expected 1 to 64."),
        (BASE.text, {"heads": 0}, "heads is 0. Expected 1 to"),
        (BASE.text, {"heads": 7}, "heads is 7, which does not divide width 512"),
        (BASE.text, {"n_vocab": 2**40}, "n_vocab is 1099511627776. Expected 1 to 1000000."),
        (BASE.schedule, {"diffusion_steps": 2**63}, "diffusion_steps is 9223372036854775808."),
        (BASE.schedule, {"noise_schedule": "x"}, "Expected one of linear, squaredcos_cap_v2."),
        (BASE.schedule, {"prediction_type": 3}, "Expected one of epsilon, v_prediction."),
        (BASE, {"sampler": "euler2"}, "sampler is 'euler2'. Expected one of ddpm, ddim, plms"),
        (BASE, {"kind": "large"}, "kind is 'large'. Expected one of base, upsampler, inpaint"),
        (BASE, {"tokenizer": ""}, "tokenizer is ''. Expected one of glide-bpe, clip-bpe"),
        (
            BASE,
            {"text": 3},
            "text is 3. Expected an object with the fields n_vocab, context_length",
        ),
        (CLIP, {"patch_size": 5}, "patch_size is 5, which does not divide image_size 64"),
        (CLIP, {"text_heads": 7}, "text_heads is 7, which does not divide text_width 512"),
        (CLIP, {"logit_scale": math.inf}, "logit_scale is inf. Expected 0 to 10000."),
        (SamplerConfig(), {"steps": 0}, "steps is 0. Expected 1 to 100000, or None."),
        (
            SamplerConfig(),
            {"steps": 10**5000},
            "steps is a huge int. Expected 1 to 100000, or None.",
        ),
        (SamplerConfig(), {"eta": -math.inf}, "eta is -inf. Expected 0 to 1."),
        (SamplerConfig(), {"guidance_scale": 1e38}, "guidance_scale is 1e+38. Expected -1000 to"),
        (SamplerConfig(), {"temperature": math.nan}, "temperature is nan. Expected 0 to 10."),
        (SamplerConfig(), {"guidance_interval": (2.0, 1.0)}, "is (2.0, 1.0). Expected the smaller"),
        (SamplerConfig(), {"guidance_interval": (2.0,)}, "Expected two sigmas"),
        (SamplerConfig(), {"respacing": "1," * 9999}, "Expected a respacing string"),
    ],
)
def test_an_invalid_field_is_named_with_what_is_allowed(
    config: Any, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(GlideError) as caught:
        replace(config, **changes)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


def test_preconditioning_is_for_upsamplers_that_predict_v() -> None:
    with pytest.raises(GlideError, match=r"sigma_data is 0\.1 in a model of kind base"):
        replace(BASE, unet=replace(BASE.unet, sigma_data=0.1))


def test_an_unknown_field_is_named_with_the_known_ones() -> None:
    with pytest.raises(
        GlideError, match=r"Unknown field 'depth'. Expected n_vocab, context_length"
    ):
        TextConfig(depth=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("config", [BASE, UPSAMPLER, CLIP], ids=str)
def test_json_gives_the_config_back(config: GlideConfig | ClipConfig) -> None:
    assert type(config).from_json(config.to_json()) == config


def test_names_of_older_files_are_read() -> None:
    raw = json.loads(replace(BASE, kind="upsampler").to_json())
    raw["schedule"]["prediction_type"] = "v_prediction"
    raw["unet"] |= {"position_waves": 4, "residual_std": 0.1}
    del raw["unet"]["coord_channels"], raw["unet"]["sigma_data"]
    unet = GlideConfig.from_json(json.dumps(raw)).unet
    assert (unet.coord_channels, unet.sigma_data) == (4, 0.1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 60_000, "recursion depth"),
        ("[" * 100_000, "100,000 characters"),
        ("null", "not a JSON object"),
        ("{}", "it has no text"),
        ('{"text": {}, "unet": []}', r"unet is \[\]. Expected an object with the fields"),
        ('{"text": {}, "unet": {"depth": 1}}', "Unknown field 'unet.depth'"),
        ('{"text": {"heads": 7}, "unet": {"norm_groups": 7}}', "heads is 7.*norm_groups is 7"),
        ('{"text": {}, "unet": {"dropout": NaN}}', "unet.dropout is nan"),
    ],
)
def test_json_that_is_not_a_config_is_refused(text: str, said: str) -> None:
    with pytest.raises(GlideError, match=said):
        GlideConfig.from_json(text)


def test_the_library_is_imported_without_pydantic() -> None:
    code = "import sys, glide_core; sys.exit('pydantic' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
FIELDS = [
    *((TextConfig, name) for name in asdict(BASE.text)),
    *((UNetConfig, name) for name in asdict(BASE.unet)),
    *((ScheduleConfig, name) for name in asdict(BASE.schedule)),
    *((ClipConfig, name) for name in asdict(CLIP)),
    *((SamplerConfig, name) for name in asdict(SamplerConfig())),
]


@QUICK
@given(field=st.sampled_from(FIELDS), value=ANYTHING)
def test_any_value_of_any_field_is_accepted_or_a_glide_error(
    field: tuple[type, str], value: object
) -> None:
    cls, name = field
    try:
        made = cls(**{name: value})
    except GlideError as error:
        assert name in str(error) or "Expected" in str(error)
    else:
        json.dumps(asdict(made), allow_nan=False)


@QUICK
@given(
    changed=st.sampled_from(["text", "unet", "schedule"]),
    more=st.dictionaries(
        st.sampled_from([*asdict(BASE.text), *asdict(BASE.unet), "x"]), ANYTHING, max_size=3
    ),
    part=ANYTHING,
)
def test_any_json_is_a_valid_config_or_a_glide_error(
    changed: str, more: dict[str, object], part: object
) -> None:
    raw = json.loads(BASE.to_json())
    for text in (
        json.dumps(part),
        json.dumps({**raw, changed: part}),
        json.dumps({**raw, changed: {**raw[changed], **more}}),
    ):
        try:
            config = GlideConfig.from_json(text)
        except GlideError:
            continue
        assert GlideConfig.from_json(config.to_json()) == config

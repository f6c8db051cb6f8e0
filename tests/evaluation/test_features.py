"""Feature extractors on tiny networks: their features, their identity, their errors."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from glide_core.checkpoints.loading import load_clip
from glide_core.errors import GlideError
from glide_core.evaluation.evaluate import MetricParams, measure
from glide_core.evaluation.features import (
    FeatureExtractor,
    cosines,
    load_extractor,
    noisy_clip_features,
    open_clip_features,
)
from glide_core.evaluation.image_set import find_images, read_features
from glide_core.guidance.clip import clip_preprocessing


def random_images(count: int, side: int = 64, seed: int = 0) -> Tensor:
    """Random images of 8-bit levels, as files hold them."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), generator=rng).float() / 127.5 - 1


def encoded(extractor: FeatureExtractor, caption: str) -> Tensor:
    assert extractor.encode_text is not None
    return extractor.encode_text([caption])


@pytest.fixture(scope="session")
def open_clip_model() -> tuple[Any, Any]:
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=16,
        vision_cfg=open_clip.CLIPVisionCfg(
            image_size=32, layers=1, width=32, head_width=16, patch_size=16
        ),
        text_cfg=open_clip.CLIPTextCfg(width=32, heads=2, layers=1),
    )
    model.visual.image_mean = open_clip.OPENAI_DATASET_MEAN  # as open_clip.create_model sets them
    model.visual.image_std = open_clip.OPENAI_DATASET_STD
    return model.eval().requires_grad_(False), open_clip.get_tokenizer("ViT-B-32")


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of FID's network, in the layout of pytorch-fid's file."""
    module = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="pip install torch-fidelity"
    )
    torch.manual_seed(0)
    parts = module.FeatureExtractorInceptionV3
    load = parts.load_state_dict
    saved: dict[str, Tensor] = {}

    def keep(network: Any, _: Any) -> None:
        saved.update(network.state_dict())

    empty = tmp_path_factory.mktemp("inception") / "empty.pth"
    torch.save({}, empty)
    parts.load_state_dict = keep
    try:
        parts("made", ["2048"], feature_extractor_weights_path=str(empty))
    finally:
        parts.load_state_dict = load
    path = empty.with_name("pt_inception.pth")
    torch.save(saved, path)
    return path


def test_pixels_are_means_over_equal_areas() -> None:
    pixels = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
    found = load_extractor("pixels:2").encode_image(pixels)
    assert found.tolist() == [[2.5, 4.5, 10.5, 12.5] * 3]
    assert found.dtype == torch.float64


def test_every_extractor_is_identified(
    model_folder: Path, open_clip_model: tuple[Any, Any]
) -> None:
    clip = model_folder / "tiny_clip.safetensors"
    for extractor in (
        load_extractor("pixels"),
        load_extractor(f"clip:{clip}"),
        open_clip_features(*open_clip_model, "tiny"),
    ):
        for side in (64, 100, 20):
            found = extractor.encode_image(random_images(2, side))
            assert found.shape == (2, extractor.dimension) and found.isfinite().all()
        assert extractor.name and extractor.resize
    digest = hashlib.sha256(clip.read_bytes()).hexdigest()
    assert load_extractor(f"clip:{clip}").sha256 == digest
    assert load_extractor("pixels").sha256 == ""


def test_the_bundled_clip_reads_text_and_is_identified_by_its_hash() -> None:
    bundled = load_extractor("clip:bundled")
    assert bundled.encode_text is not None and bundled.logits is None
    assert len(bundled.sha256) == 64 and "64x64" in bundled.resize


def squares(seen: Tensor, side: int) -> Tensor:
    resized = torch.nn.functional.interpolate(seen, (side, side), mode="bicubic", antialias=True)
    return resized.clamp(-1, 1)


def test_cosines_are_those_of_the_noisy_clip_at_t_0(model_folder: Path) -> None:
    clip = load_clip(model_folder / "tiny_clip.safetensors")
    seen, captions = random_images(3, 80), ["a red apple", "a car", "a red apple"]
    with torch.no_grad():
        image = clip.encode_image(squares(seen, 64), torch.zeros(3, dtype=torch.int64))
        text = clip.encode_prompts(captions)
    wanted = torch.nn.functional.cosine_similarity(image, text).tolist()
    found = cosines(noisy_clip_features(clip), seen, captions).tolist()
    assert found == pytest.approx(wanted, abs=1e-6)
    alone = cosines(noisy_clip_features(clip), seen, ["a car"]).tolist()
    assert alone[1] == pytest.approx(wanted[1], abs=1e-6) and len(alone) == 3


def test_cosines_are_those_of_the_open_clip_model(open_clip_model: tuple[Any, Any]) -> None:
    model, tokenizer = open_clip_model
    extractor, seen = open_clip_features(model, tokenizer, "tiny"), random_images(3, 80)
    _, mean, std = clip_preprocessing(model)
    with torch.no_grad():
        image = model.encode_image(((squares(seen, 32) + 1) / 2 - mean) / std)
        text = model.encode_text(tokenizer(["a red apple"]))
    wanted = torch.nn.functional.cosine_similarity(image, text).tolist()
    found = cosines(extractor, seen, ["a red apple"]).tolist()
    assert found == pytest.approx(wanted, abs=1e-6)
    assert extractor.logit_scale == pytest.approx(1 / 0.07)  # a fresh model's


def test_open_clip_sees_squares_as_by_its_own_preprocessing(
    open_clip_model: tuple[Any, Any],
) -> None:
    """PIL's bicubic on 8 bits there, torch's on floats here: a level or two of 255 apart."""
    import open_clip

    smooth = torch.nn.functional.interpolate(random_images(2, 8), 96, mode="bicubic").clamp(-1, 1)
    levels = ((smooth + 1) * 127.5).round().to(torch.uint8)
    preprocess = open_clip.image_transform(32, is_train=False)
    views = [preprocess(Image.fromarray(p)) for p in levels.movedim(1, -1).numpy()]
    model, _ = open_clip_model
    theirs = model.encode_image(torch.stack(views))
    tiny = open_clip_features(*open_clip_model, "tiny")
    ours = tiny.encode_image(levels.float() / 127.5 - 1)
    assert torch.nn.functional.cosine_similarity(ours, theirs).min() > 0.9999


def test_batches_change_nothing_but_rounding(model_folder: Path) -> None:
    extractor, seen = (
        load_extractor(f"clip:{model_folder / 'tiny_clip.safetensors'}"),
        random_images(7),
    )
    alone = torch.cat([extractor.encode_image(image) for image in seen.split(1)])
    together = extractor.encode_image(seen)
    assert torch.allclose(alone, together, atol=1e-5)


@pytest.mark.slow
def test_inception_equals_torch_fidelity_from_files_to_numbers(
    inception_file: Path, tmp_path: Path
) -> None:
    """Its whole pipeline, with the same random weights, on the same PNGs.

    All but FID, whose roots of 2048x2048 take it a minute: test_metrics.py compares that.
    """
    torch_fidelity = pytest.importorskip("torch_fidelity", reason="pip install torch-fidelity")
    extractor = load_extractor(f"inception:{inception_file}")
    assert extractor.logits is not None and extractor.dimension == 2048
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder, seed in zip(folders, (0, 1), strict=True):
        folder.mkdir()
        for i, image in enumerate(random_images(6, 20 + 4 * seed, seed)):
            levels = ((image + 1) * 127.5).round().byte().movedim(0, -1).numpy()
            Image.fromarray(np.ascontiguousarray(levels)).save(folder / f"{i}.png")
    found, reference = (read_features(extractor, find_images(f), batch=4) for f in folders)
    wanted = ["kid", "precision", "recall", "is"]
    ours = {
        one.metric: one.value
        for one in measure(
            wanted, extractor, found, reference, params=MetricParams(neighbours=2, splits=1)
        )
    }
    theirs = torch_fidelity.calculate_metrics(
        input1=str(folders[0]),
        input2=str(folders[1]),
        cuda=False,
        feature_extractor="inception-v3-compat",
        kid=True,
        isc=True,
        prc=True,
        kid_subset_size=6,
        kid_subsets=1,
        isc_splits=1,
        prc_neighborhood=2,
        feature_extractor_weights_path=str(inception_file),
        batch_size=4,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
    )
    for name, key, tolerance in (
        ("kid", "kernel_inception_distance_mean", 1e-4),
        ("is", "inception_score_mean", 1e-4),
        ("precision", "precision", 1e-6),
        ("recall", "recall", 1e-6),
    ):
        assert ours[name] == pytest.approx(theirs[key], rel=tolerance, abs=1e-6), name


def test_inception_weights_that_carry_code_are_refused(tmp_path: Path) -> None:
    """torch-fidelity itself would run it."""
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (marker,)  # type: ignore[return-value]

    torch.save({"fc.weight": Evil()}, path)
    with pytest.raises(GlideError, match="could run any code"):
        load_extractor(f"inception:{path}")
    assert not marker.exists()


def test_weights_of_another_network_are_not_inception(model_folder: Path) -> None:
    pytest.importorskip("torch_fidelity", reason="pip install torch-fidelity")
    with pytest.raises(GlideError, match="does not hold the weights of pt_inception"):
        load_extractor(f"inception:{model_folder / 'tiny_clip.safetensors'}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vgg", "Unknown feature extractor 'vgg'"),
        ("inception", "Unknown feature extractor"),
        ("pixels:65", "invalid size"),
        ("pixels:many", "invalid size"),
        ("inception:nowhere.pth", "nowhere.pth cannot be read: No such file"),
        ("clip:nowhere.safetensors", "model 'nowhere.safetensors' was not found"),
        ("open_clip:ViT-B-32:nowhere.pt", "no weights 'nowhere.pt'"),
        ("open_clip:ViT-B-99:openai", "no architecture 'ViT-B-99'"),
        ("open_clip:ViT-B-32:no_tag", "no weights 'no_tag'"),
    ],
)
def test_unknown_extractors_are_named(
    spec: str, message: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GlideError, match=message):
        load_extractor(spec)


def test_open_clip_weights_that_are_not_here_are_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    import open_clip

    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"url": "http://x/y.pt"})
    with pytest.raises(GlideError, match="not in open_clip"):
        load_extractor("open_clip:ViT-B-32:openai")
    with pytest.raises(GlideError, match="cache holds no weights for ViT-B-32"):
        load_extractor("open_clip:ViT-B-32")

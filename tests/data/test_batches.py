"""Batches of people's own images: repeatable, the right pixels, the right captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from images_on_disk import encode, folder_files, noise, write_folder
from PIL import Image
from torch import Tensor

from glide_core.data.source import Source, open_source
from glide_core.errors import GlideError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("ten"), folder_files(10, side=72))


def only(folder: Path, image: Image.Image, caption: str = "x", **options: object) -> Source:
    """A source of one image."""
    kind = "tiff" if image.mode == "I;16" else "png"
    write_folder(folder, {f"a.{kind}": encode(image, kind), "a.txt": caption})
    return open_source(folder, **options)  # type: ignore[arg-type]


def first_image(source: Source, side: int, crop: int = 0) -> Tensor:
    return source.batch(generator(), 1, side=side, crop=crop).images[0]


def test_ten_images_give_batches_of_sixty_four(ten: Path) -> None:
    batch = open_source(ten).batch(generator(), 64, side=64)
    assert batch.images.shape == (64, 3, 64, 64)
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous()
    assert -1 <= batch.images.min() < -0.9
    assert 0.9 < batch.images.max() <= 1
    assert set(batch.captions) == {f"image number {i}" for i in range(10)}


def test_the_same_generator_state_gives_the_same_batch_in_another_process_state(ten: Path) -> None:
    first, rng = open_source(ten, flip=True), generator(3)
    first.batch(rng, 8, side=64)
    state = rng.get_state()
    expected = first.batch(rng, 16, side=64, crop=32)
    resumed = torch.Generator()
    resumed.set_state(state)
    # a fresh source, other threads, no memory: nothing but the generator decides
    again = open_source(ten, flip=True, memory_mb=0)
    batch = again.batch(resumed, 16, side=64, crop=32)
    assert torch.equal(batch.images, expected.images)
    assert batch.captions == expected.captions
    assert torch.equal(rng.get_state(), resumed.get_state())


def test_the_global_generators_are_neither_used_nor_moved(ten: Path) -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    open_source(ten, flip=True).batch(generator(), 8, side=64)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002


def test_images_kept_in_part_are_the_images_kept_whole(ten: Path) -> None:
    whole, part = open_source(ten, side=256), open_source(ten, side=256, memory_mb=1)
    for _ in range(2):
        a, b = (s.batch(generator(1), 12, side=256) for s in (whole, part))
        assert torch.equal(a.images, b.images)


def test_images_are_read_once_where_they_fit_in_memory(tmp_path: Path) -> None:
    write_folder(tmp_path, folder_files(3))
    source = open_source(tmp_path, side=64)
    for path in tmp_path.iterdir():
        path.unlink()
    assert source.batch(generator(), 8, side=64).images.shape[0] == 8


def test_an_image_of_the_right_size_comes_back_bit_for_bit(tmp_path: Path) -> None:
    image = noise(1, 64, 64)
    expected = torch.from_numpy(np.array(image)).movedim(-1, 0).float() / 127.5 - 1
    assert torch.equal(first_image(only(tmp_path, image), 64), expected)


def test_the_orientation_tag_is_honoured(tmp_path: Path) -> None:
    image = Image.new("RGB", (96, 64), "black")
    image.paste("white", (0, 0, 96, 32))  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown, what is above comes to the right
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    write_folder(tmp_path, {"a.txt": "turned"})
    shown = first_image(open_source(tmp_path, center_crop=True), 64)
    assert shown[:, :, 40:].min() > 0.9
    assert shown[:, :, :24].max() < -0.9


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(mode: str, tmp_path: Path) -> None:
    image = Image.new(mode, (64, 64), (0,) * len(mode))
    assert (first_image(only(tmp_path, image), 64) == 1).all()


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((64, 64), 32768, dtype=np.uint16))
    shown = first_image(only(tmp_path, image), 64)
    assert shown.abs().max() < 0.01


@pytest.mark.parametrize("tall", [False, True])
def test_the_shorter_side_is_fitted_and_the_longer_one_cut_at_random(
    tall: bool, tmp_path: Path
) -> None:
    ramp = np.tile(np.linspace(0, 255, 400).astype(np.uint8), (100, 1))
    source = only(tmp_path, Image.fromarray(ramp.T if tall else ramp).convert("RGB"))
    means = source.batch(generator(), 64, side=64).images.mean(dim=(1, 2, 3))
    assert means.min() < -0.6
    assert means.max() > 0.6
    middle = open_source(tmp_path, center_crop=True).batch(generator(), 4, side=64).images
    assert middle.mean(dim=(1, 2, 3)).abs().max() < 0.02


def test_small_images_are_enlarged(tmp_path: Path) -> None:
    shown = first_image(only(tmp_path, Image.new("RGB", (20, 30), "red")), 64)
    assert torch.equal(shown[:, 0, 0], torch.tensor([1.0, -1.0, -1.0]))
    assert shown.shape == (3, 64, 64)


def test_crops_lie_at_multiples_of_four_and_reach_every_edge(tmp_path: Path) -> None:
    values = np.zeros((64, 64, 3), dtype=np.uint8)
    values[..., 0], values[..., 1] = np.arange(64)[:, None], np.arange(64)
    source = only(tmp_path, Image.fromarray(values))
    crops = source.batch(generator(), 400, side=64, crop=32).images
    corners = ((crops[:, :2, 0, 0] + 1) * 127.5).round().long()
    assert crops.shape == (400, 3, 32, 32)
    for axis in (0, 1):
        assert set(corners[:, axis].tolist()) == set(range(0, 33, 4))


@pytest.mark.parametrize("crop", [-4, 65])
def test_a_crop_larger_than_the_image_is_refused(crop: int, ten: Path) -> None:
    with pytest.raises(GlideError, match="expected 1 to 64"):
        open_source(ten).batch(generator(), 1, side=64, crop=crop)


def test_images_are_mirrored_half_of_the_time_where_asked_and_else_never(tmp_path: Path) -> None:
    image = noise(4, 64, 64)
    asked = only(tmp_path, image, flip=True).batch(generator(), 64, side=64).images
    never = open_source(tmp_path).batch(generator(), 64, side=64).images
    assert (never == never[0]).all()
    same = (asked == never[0]).flatten(1).all(dim=1)
    mirrored = (asked == never[0].flip(-1)).flatten(1).all(dim=1)
    assert (same ^ mirrored).all()
    assert 20 < int(same.sum()) < 44


def test_each_line_of_a_caption_file_is_sampled(tmp_path: Path) -> None:
    source = only(tmp_path, noise(1), "\ufeffa cat\n\n  a  small cat\r\na pet\na cat\n")
    captions = source.batch(generator(), 90, side=64).captions
    assert set(captions) == {"a cat", "a small cat", "a pet"}
    assert all(captions.count(c) > 15 for c in set(captions))


def test_a_distinct_batch_repeats_no_caption_and_no_image(tmp_path: Path) -> None:
    files = folder_files(9)
    for i in range(9):  # three captions over nine images, and one with a second choice
        files[f"{i:03}.txt"] = f"kind {i % 3}".encode()
    files["008.txt"] = b"kind 0\nthe odd one"
    source = open_source(write_folder(tmp_path, files))
    small = source.batch(generator(), 2, side=64, distinct=True)
    assert len(set(small.captions)) == len(small.captions) == 2
    odd = 0
    for seed in range(20):
        batch = source.batch(generator(seed), 64, side=64, distinct=True)
        odd += "the odd one" in batch.captions
        assert len(set(batch.captions)) == len(batch.captions) == len(batch.images)
        assert len(batch.images.flatten(1).unique(dim=0)) == len(batch.images)
        assert {"kind 1", "kind 2"} <= set(batch.captions)
    assert odd >= 15  # the second choice is taken wherever the first is there already


def test_a_distinct_batch_is_full_where_there_are_enough(ten: Path) -> None:
    batch = open_source(ten).batch(generator(), 10, side=64, distinct=True)
    assert sorted(batch.captions) == [f"image number {i}" for i in range(10)]

"""The images that are evaluated: where they and their captions come from, and how they are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from evaluation.captioned import CAPTIONS, add_texts, fill
from images_on_disk import noise, write_jsonl, write_tar
from PIL.PngImagePlugin import PngInfo

from glide_core.errors import GlideError
from glide_core.evaluation.features import FeatureExtractor, load_extractor
from glide_core.evaluation.image_set import FeatureSet, LoadedImage, find_images, read_features


def test_captions_come_from_text_json_png_list_and_shards_alike(
    folder: Path, tmp_path: Path
) -> None:
    def read(where: object) -> list[tuple[str, str]]:
        read = list(find_images(str(where)).read())
        assert all(isinstance(one, LoadedImage) for one in read)
        return [(Path(p.name).name, p.caption) for p in read if isinstance(p, LoadedImage)]

    names = sorted(path.name for path in folder.glob("*.png"))
    wanted = list(zip(names, CAPTIONS, strict=True))

    inside = tmp_path / "inside"
    inside.mkdir()
    for i, (name, caption) in enumerate(wanted):
        info = PngInfo()
        info.add_text("glide", json.dumps({"prompt": caption}))
        noise(i, 64, 64).save(inside / name, pnginfo=info)
    assert read(inside) == wanted

    beside = fill(tmp_path / "beside", 6)
    for name, caption in wanted:
        (beside / name).with_suffix(".json").write_text(json.dumps({"prompt": caption}))
    assert read(beside) == wanted

    shards = tmp_path / "shards"
    for number, part in enumerate((wanted[:4], wanted[4:])):
        files: dict[str, bytes | str] = {}
        for name, caption in part:
            files[name] = (folder / name).read_bytes()
            files[name.replace(".png", ".json")] = json.dumps({"prompt": caption})
        write_tar(shards / f"shard-{number:05}.tar", files)
    assert [caption for _, caption in read(shards)] == CAPTIONS
    assert len(read(shards / "shard-00000.tar")) == 4
    assert len(read(shards / "shard-{00000..00001}.tar")) == 6

    rows: list[dict[str, object]] = [
        {"image": f"images/{name}", "caption": caption} for name, caption in wanted
    ]
    listed = write_jsonl(tmp_path / "list.jsonl", rows)
    assert read(listed) == wanted

    plain = tmp_path / "list.txt"
    plain.write_text("\n".join(f"images/{name}" for name in names))
    assert read(plain) == [(name, "") for name in names]

    add_texts(folder)
    assert read(folder) == wanted


def test_a_captions_file_is_matched_by_line_or_by_name(folder: Path, tmp_path: Path) -> None:
    lines, table = tmp_path / "captions.txt", tmp_path / "captions.csv"
    lines.write_text("\n".join(CAPTIONS) + "\n")
    rows = [f"{i:03}.png,{caption}" for i, caption in enumerate(CAPTIONS)]
    table.write_text("\n".join(["image,caption", *reversed(rows)]))
    for file in (lines, table):
        found = find_images(folder).with_captions(file)
        assert [entry.captions[0] for entry in found.entries] == CAPTIONS
    lines.write_text("\n".join(CAPTIONS[:4]))
    with pytest.raises(GlideError, match="4 captions for 6 images"):
        find_images(folder).with_captions(lines)
    table.write_text("image,caption\n000.png,a sun")
    with pytest.raises(GlideError, match=r"no caption of 001\.png"):
        find_images(folder).with_captions(table)


def test_batches_change_nothing_but_rounding(folder: Path, clip: str) -> None:
    noise(9, 90, 64).save(folder / "0015.png")  # another size, in the middle
    source, extractor = find_images(folder, crop="none"), load_extractor(clip)
    one, many = (read_features(extractor, source, batch=b) for b in (1, 5))
    assert one.size == many.size == "mixed"
    assert torch.allclose(one.features, many.features, atol=1e-5)


def test_the_middle_square_is_measured_and_resized_when_asked(tmp_path: Path) -> None:
    wide = noise(0, 100, 40)
    (tmp_path / "in").mkdir()
    wide.save(tmp_path / "in" / "a.png")
    wide.crop((30, 0, 70, 40)).save(tmp_path / "in" / "b.png")
    found = find_images(tmp_path / "in", size=16)
    a, b = found.read()
    assert isinstance(a, LoadedImage) and isinstance(b, LoadedImage)
    assert a.pixels.shape == (3, 16, 16) and torch.equal(a.pixels, b.pixels)
    measured = read_features(load_extractor("pixels"), found)
    assert measured.crop == "centre square, PIL bicubic to 16x16"


def test_n_images_are_selected_by_the_seed_and_keep_their_order(folder: Path) -> None:
    source = find_images(folder)
    chosen = [[e.name for e in source.subset(4, seed).entries] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] == sorted(chosen[0]) and len(chosen[0]) == 4
    assert chosen[2] != chosen[0]
    with pytest.raises(GlideError, match="6 images, not 7"):
        source.subset(7, 0)


def test_an_extractor_that_gives_nan_names_the_images_and_no_other(folder: Path) -> None:
    def encode_image(pixels: torch.Tensor) -> torch.Tensor:
        values = pixels.mean(dim=(2, 3))[:, :2]
        values[1, 0], values[3, 1] = torch.nan, torch.inf
        return values

    broken = FeatureExtractor("broken", 2, "none", encode_image)
    with pytest.raises(GlideError, match=r"broken gives NaN or infinity for 001\.png, 003\.png\."):
        read_features(broken, find_images(folder))


def test_worker_processes_read_the_same_images(folder: Path) -> None:
    (folder / "003.png").write_text("no image")
    pixels, state = load_extractor("pixels:4"), torch.get_rng_state()
    alone, workers = (read_features(pixels, find_images(folder), workers=n) for n in (0, 2))
    assert alone.skipped == workers.skipped
    assert torch.equal(alone.features, workers.features)
    assert torch.equal(state, torch.get_rng_state())


def test_a_saved_feature_set_loads_as_it_was(folder: Path, tmp_path: Path) -> None:
    saved = read_features(load_extractor("pixels:2"), find_images(folder, size=32))
    saved.save(tmp_path / "set.npz")
    loaded = FeatureSet.load(tmp_path / "set.npz")
    assert isinstance(loaded, FeatureSet)
    assert torch.equal(loaded.features, saved.features)
    assert (len(loaded), loaded.crop, loaded.size) == (6, saved.crop, "32x32")
    assert loaded.extractor == saved.extractor

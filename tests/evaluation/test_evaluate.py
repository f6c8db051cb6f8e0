"""`glide evaluate` from files to numbers: input, output and errors."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from glide_core.cli import main
from glide_core.errors import GlideError
from glide_core.evaluation.features import FeatureExtractor, load_extractor
from glide_core.evaluation.image_set import FeatureSet, LoadedImage, find_images, read_features

CAPTIONS = ["a red apple", "a blue car", "a green fox", "a cat", "a dog", "a sun"]


def glide(*words: object) -> int:
    return main(["evaluate", *map(str, words), "--quiet"])


def image(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def fill(folder: Path, count: int, start: int = 0, **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image(start + i, **options).save(folder / f"{i:03}.png")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "images", 6)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return fill(tmp_path / "reference", 8, start=100)


@pytest.fixture
def clip(model_folder: Path) -> str:
    return f"clip:{model_folder / 'tiny_clip.safetensors'}"


def add_texts(folder: Path) -> None:
    for path, caption in zip(sorted(folder.glob("*.png")), CAPTIONS, strict=True):
        path.with_suffix(".txt").write_text(caption + "\nanother caption\n")


def results(path: Path) -> dict[str, Any]:
    return {one["metric"]: one for one in json.loads(path.read_text())}


def test_a_reference_gives_four_values_and_their_provenance(
    folder: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    words = [folder, "--reference", reference, "--features", "pixels:1", "--out", out, "--seed", 7]
    assert glide(*words) == 0
    found = results(out)
    assert list(found) == ["frechet", "kid", "precision", "recall"]
    for one in found.values():
        how = one["provenance"]
        assert (how["n"], how["n_reference"], how["seed"]) == (6, 8, 7)
        assert (how["crop"], how["size"]) == ("centre square", "64x64")
        assert (how["extractor"], how["sha256"], how["dimension"]) == ("pixels:1", "", 3)
        assert set(how["versions"]) == {"glide", "torch"}
        assert how["command"] == f"glide evaluate {folder} --reference {reference} " + (
            "--features pixels:1 --seed 7"
        )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == list(found)
    assert float(lines[0].split()[1]) == pytest.approx(found["frechet"]["value"], rel=1e-5)
    assert lines[1].endswith("(subsets 100, subset_size 6)")
    assert len(lines) == 5  # the provenance is equal for all and is printed once
    assert lines[4].startswith(
        "6 images against 8; crop centre square; size 64x64; pixels:1, 3 features"
    )
    kid = found["kid"]
    assert kid["std"] is not None and kid["details"] == {"subsets": 100, "subset_size": 6}


def test_a_folder_against_itself_is_perfect(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    assert glide(folder, "--reference", folder, "--features", "pixels:1", "--out", out) == 0
    found = results(out)
    assert found["frechet"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["precision"]["value"] == found["recall"]["value"] == 1


def test_saved_statistics_replace_the_images(folder: Path, reference: Path, tmp_path: Path) -> None:
    stats, one, other = tmp_path / "ref.npz", tmp_path / "1.json", tmp_path / "2.json"
    pixels = ["--features", "pixels:1"]
    assert glide(reference, *pixels, "--save-stats", stats) == 0
    assert glide(folder, "--reference", reference, *pixels, "--out", one) == 0
    assert glide(folder, "--reference", stats, *pixels, "--out", other) == 0
    for name, value in results(one).items():
        again = results(other)[name]
        assert (again["value"], again["std"]) == pytest.approx((value["value"], value["std"]))
        assert again["provenance"]["n_reference"] == 8


def test_statistics_of_another_extractor_are_refused(
    folder: Path, tmp_path: Path, clip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stats = tmp_path / "ref.npz"
    assert glide(folder, "--features", "pixels:2", "--save-stats", stats) == 0
    assert glide(folder, "--reference", stats, "--features", clip) == 1
    assert "reference was measured with pixels:2" in capsys.readouterr().err


def test_statistics_of_other_programs_are_enough_for_frechet(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stats = tmp_path / "foreign.npz"
    np.savez(stats, mu=np.zeros(3), sigma=np.eye(3))
    words = [folder, "--reference", stats, "--features", "pixels:1", "--metrics"]
    assert glide(*words, "frechet") == 0
    assert "does not say which extractor" in capsys.readouterr().err
    assert glide(*words, "kid") == 1
    assert "only their mean and covariance" in capsys.readouterr().err


def test_captions_beside_images_are_scored_and_found(
    folder: Path, tmp_path: Path, clip: str
) -> None:
    add_texts(folder)
    out = tmp_path / "results.json"
    metrics = ["--metrics", "clip-score", "retrieval", "is", "--splits", 2]
    assert glide(folder, "--features", clip, *metrics, "--out", out) == 0
    found = results(out)
    assert found["clip-score"]["details"]["s"] == 100
    assert found["clip-score"]["value"] == pytest.approx(found["clip-score"]["details"]["100cos"])
    assert found["retrieval-caption-top1"]["details"]["captions"] == 6
    assert found["is"]["details"] == {"splits": 2, "classes": 6}
    assert found["clip-score"]["provenance"]["n_reference"] is None
    assert len(found["clip-score"]["provenance"]["sha256"]) == 64


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
        image(i).save(inside / name, pnginfo=info)
    assert read(inside) == wanted

    beside = fill(tmp_path / "beside", 6)
    for name, caption in wanted:
        (beside / name).with_suffix(".json").write_text(json.dumps({"prompt": caption}))
    assert read(beside) == wanted

    shards = tmp_path / "shards"
    shards.mkdir()
    for number, part in enumerate((wanted[:4], wanted[4:])):
        with tarfile.open(shards / f"shard-{number:05}.tar", "w") as archive:
            for name, caption in part:
                for ending, data in (
                    (".png", (folder / name).read_bytes()),
                    (".json", json.dumps({"prompt": caption}).encode()),
                ):
                    member = tarfile.TarInfo(name.removesuffix(".png") + ending)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    assert [caption for _, caption in read(shards)] == CAPTIONS
    assert len(read(shards / "shard-00000.tar")) == 4
    assert len(read(shards / "shard-{00000..00001}.tar")) == 6

    listed = tmp_path / "list.jsonl"
    rows = [{"image": f"images/{name}", "caption": caption} for name, caption in wanted]
    listed.write_text("\n".join(json.dumps(row) for row in rows))
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


def test_an_image_without_a_caption_is_named(
    folder: Path, clip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add_texts(folder)
    (folder / "003.txt").unlink()
    assert glide(folder, "--features", clip, "--metrics", "clip-score") == 1
    assert "003.png has no caption" in capsys.readouterr().err


def test_unreadable_images_are_named_counted_and_left_out(
    folder: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (folder / "002.png").read_bytes()
    (folder / "002.png").write_bytes(data[: len(data) // 2])
    (folder / "004.png").write_text("no image")
    out = tmp_path / "results.json"
    words = [folder, "--reference", reference, "--features", "pixels:1", "--metrics", "frechet"]
    assert glide(*words, "--out", out) == 0
    said = capsys.readouterr()
    assert "left out: 002.png" in said.err and "004.png" in said.err
    provenance = results(out)["frechet"]["provenance"]
    assert (provenance["n"], provenance["skipped"]) == (4, 2)
    assert "4 images (2 unreadable) against 8" in said.out


def test_batches_change_nothing_but_rounding(folder: Path, clip: str) -> None:
    image(9, size=(90, 64)).save(folder / "0015.png")  # another size, in the middle
    source, extractor = find_images(folder, crop="none"), load_extractor(clip)
    one, many = (read_features(extractor, source, batch=b) for b in (1, 5))
    assert one.size == many.size == "mixed"
    assert one.features is not None and many.features is not None
    assert torch.allclose(one.features, many.features, atol=1e-5)


def test_the_middle_square_is_measured_and_resized_when_asked(tmp_path: Path) -> None:
    wide = image(0, size=(100, 40))
    (tmp_path / "in").mkdir()
    wide.save(tmp_path / "in" / "a.png")
    wide.crop((30, 0, 70, 40)).save(tmp_path / "in" / "b.png")
    found = find_images(tmp_path / "in", size=16)
    a, b = found.read()
    assert isinstance(a, LoadedImage) and isinstance(b, LoadedImage)
    assert a.pixels.shape == (3, 16, 16) and torch.equal(a.pixels, b.pixels)
    assert found.crop_name == "centre square, PIL bicubic to 16x16"


def test_n_images_are_selected_by_the_seed_and_keep_their_order(folder: Path) -> None:
    source = find_images(folder)
    chosen = [[e.name for e in source.subset(4, seed).entries] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] == sorted(chosen[0]) and len(chosen[0]) == 4
    assert chosen[2] != chosen[0]
    with pytest.raises(GlideError, match="6 images, and 7 were requested"):
        source.subset(7, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{folder}"], "Nothing to measure: give --metrics"),
        (["nowhere", "--metrics", "is"], "nowhere was not found"),
        (["{empty}", "--metrics", "is"], "hold no images"),
        (["{folder}", "--metrics", "kid"], "kid needs a second set"),
        (["{folder}", "--metrics", "clip-score", "--features", "pixels"], "needs a CLIP, not pixe"),
        (["{folder}", "--metrics", "is", "--features", "pixels"], "needs a classifier or a CLIP"),
        (["{folder}", "--reference", "{file}.npz", "--features", "pixels"], "no statistics"),
        (["{folder}", "--reference", "no.npz", "--features", "pixels"], "no.npz was not found"),
        (["{folder}", "--metrics", "is", "--out", "{file}.npz"], "already exists and is not"),
        (
            ["{folder}", "--metrics", "is", "--save-stats", "file.npz/where"],
            "file.npz is not a folder",
        ),
        (["{folder}", "--metrics", "is", "--captions", "no.txt"], "no.txt cannot be read"),
        (["{folder}", "--metrics", "is", "--splits", "4"], "split into 4 parts"),
        (["{folder}/000.png", "--metrics", "is"], "is a single image"),
        (["{one}", "--metrics", "kid", "--reference", "{folder}"], "has fewer than 2 readable"),
    ],
)
def test_an_impossible_measurement_is_an_error(
    words: list[str],
    message: str,
    folder: Path,
    clip: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "one", 1)
    add_texts(folder)
    (tmp_path / "file.npz").write_text("no archive")
    places = {"{folder}": folder, "{empty}": "empty", "{file}.npz": "file.npz", "{one}": "one"}
    places["{folder}/000.png"] = folder / "000.png"
    given = [places.get(word, word) for word in words]
    features = [] if "--features" in words else ["--features", "pixels"]
    if "is" in words and features:
        features = ["--features", clip]  # is needs captions as its classes
    assert glide(*given, *features) in (1, 2)
    said = capsys.readouterr()
    assert message in said.err and said.out == ""


def test_an_extractor_that_gives_nan_names_the_image(folder: Path) -> None:
    def encode_image(pixels: torch.Tensor) -> torch.Tensor:
        values = pixels.mean(dim=(2, 3))[:, :2]
        values[1] = torch.nan
        return values

    broken = FeatureExtractor("broken", 2, "none", encode_image)
    with pytest.raises(GlideError, match=r"broken gives NaN or infinity among 000\.png"):
        read_features(broken, find_images(folder))


def test_worker_processes_read_the_same_images(folder: Path) -> None:
    (folder / "003.png").write_text("no image")
    pixels, state = load_extractor("pixels:4"), torch.get_rng_state()
    alone, workers = (read_features(pixels, find_images(folder), workers=n) for n in (0, 2))
    assert alone.skipped == workers.skipped
    assert alone.features is not None and workers.features is not None
    assert torch.equal(alone.features, workers.features)
    assert torch.equal(state, torch.get_rng_state())


def test_a_saved_feature_set_loads_as_it_was(folder: Path, tmp_path: Path) -> None:
    saved = read_features(load_extractor("pixels:2"), find_images(folder, size=32))
    saved.save(tmp_path / "set.npz")
    loaded = FeatureSet.load(tmp_path / "set.npz")
    assert loaded.features is not None and saved.features is not None
    assert torch.equal(loaded.features, saved.features)
    assert (loaded.n, loaded.crop, loaded.size) == (6, saved.crop, "32x32")
    assert loaded.extractor == saved.extractor


IDENTITY = np.eye(3)
STATISTICS: dict[str, dict[str, Any]] = {
    "mu and sigma of different sizes": {"sigma": np.eye(4)},
    "no vector": {"mu": np.zeros((3, 1))},
    "no numbers at all": {"mu": np.zeros(0), "sigma": np.zeros((0, 0))},
    "a single number": {"mu": np.array(1.0)},
    "objects": {"mu": np.array([1, None, 2], dtype=object)},
    "text": {"mu": np.array(["a", "b", "c"])},
    "complex": {"mu": np.zeros(3, complex)},
    "NaN": {"mu": np.full(3, np.nan)},
    "too large for its square": {"mu": np.full(3, 1e200)},
    "several counts": {"n": np.zeros(3)},
    "a negative count": {"n": np.array(-1)},
    "features of another size": {"n": np.array(2), "features": np.zeros((2, 4))},
    "features too large": {"n": np.array(2), "features": np.full((2, 3), 1e300)},
    "about as a list": {"about": np.array("[1]")},
}


@pytest.mark.parametrize("case", STATISTICS)
def test_statistics_of_another_form_are_refused(case: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **{"mu": np.zeros(3), "sigma": IDENTITY, **STATISTICS[case]})
    with pytest.raises(GlideError, match=r"x\.npz holds no statistics"):
        FeatureSet.load(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "shape",
    ["(10000000000000,)", "(-3,)", f"({10**400},)", "(" * 5000, "(f(),)", "(3,)" + " " * 10**7],
    ids=["huge", "negative", "overflow", "deep", "code", "long"],
)
def test_the_header_of_an_array_may_say_anything(shape: str, tmp_path: Path) -> None:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    array = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + bytes(24)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("mu.npy", array)
    with pytest.raises(GlideError, match=r"x\.npz holds no statistics"):
        FeatureSet.load(tmp_path / "x.npz")


def test_metrics_without_images_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        glide("--metrics", "kid")
    assert stopped.value.code == 2
    assert "IMAGES" in capsys.readouterr().err

"""`glide evaluate` from files to numbers: input, output and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation.captioned import add_texts, fill

from glide_core.cli import main
from glide_core.errors import GlideError
from glide_core.evaluation import image_set
from glide_core.evaluation.evaluate import MetricParams, measure
from glide_core.evaluation.features import load_extractor


def glide(*words: object) -> int:
    return main(["evaluate", *map(str, words), "--quiet"])


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return fill(tmp_path / "reference", 8, start=100)


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
    assert "not only mean and covariance" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{folder}"], "Nothing to measure: give --metrics"),
        (["nowhere", "--metrics", "is"], "nowhere was not found"),
        (["{empty}", "--metrics", "is"], "holds no images"),
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
        (["{one}", "--metrics", "kid", "--reference", "{folder}"], "has fewer than 2 images"),
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metrics", "is", "--splits", "4"], "6 images cannot be split into 4 parts"),
        (["--metrics", "recall", "--neighbours", "6"], "6 nearest neighbours among 6 images"),
        (["--metrics", "precision", "--reference", "three"], "3 nearest neighbours among 3"),
        (["--metrics", "kid", "--reference", "bare.npz"], "not only mean and covariance"),
        (["--metrics", "kid", "--reference", "other.npz"], "was measured with pixels:2"),
        (["--metrics", "kid", "--subset-size", "1"], "expected an integer from 2"),
    ],
)
def test_what_cannot_be_measured_is_reported_before_any_feature_is_computed(
    words: list[str],
    message: str,
    folder: Path,
    reference: Path,
    clip: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_texts(folder)
    fill(tmp_path / "three", 3)
    monkeypatch.chdir(tmp_path)
    np.savez("bare.npz", mu=np.zeros(3), sigma=np.eye(3))
    assert glide(folder, "--features", "pixels:2", "--save-stats", "other.npz") == 0
    monkeypatch.setattr(image_set, "read_features", None)
    if "--reference" not in words:
        words = [*words, "--reference", str(reference)]
    try:
        assert glide(folder, "--features", clip, *words) == 1
    except SystemExit as stopped:
        assert stopped.code == 2
    assert message in capsys.readouterr().err


def test_stored_features_without_captions_are_not_scored(
    folder: Path, tmp_path: Path, clip: str
) -> None:
    extractor = load_extractor(clip)
    image_set.read_features(extractor, image_set.find_images(folder)).save(tmp_path / "x.npz")
    stored = image_set.FeatureSet.load(tmp_path / "x.npz")
    assert isinstance(stored, image_set.FeatureSet)
    for metric in ("clip-score", "retrieval", "is"):
        with pytest.raises(GlideError, match="0 captions for 6 images"):
            list(measure([metric], extractor, stored, params=MetricParams(splits=2)))


def test_metrics_without_images_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        glide("--metrics", "kid")
    assert stopped.value.code == 2
    assert "IMAGES" in capsys.readouterr().err

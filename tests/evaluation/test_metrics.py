"""Metrics against closed forms, against torch-fidelity, and on invalid input."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import Tensor

from glide_core.errors import GlideError
from glide_core.evaluation import metrics
from glide_core.evaluation.metrics import Statistics, Value, frechet, statistics


def cloud(n: int, dimension: int, seed: int, *, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimension, dimension, generator=torch.Generator().manual_seed(99)).double()
    return torch.randn(n, dimension, generator=rng).double() @ mixing * scale + shift


def distance(x: Tensor, y: Tensor) -> float:
    return frechet(statistics(x), statistics(y)).value


def precision_recall(x: Tensor, y: Tensor, neighbours: int = 3) -> tuple[Value, Value]:
    precision = metrics.precision(x, y, neighbours=neighbours)
    return precision, metrics.precision(y, x, neighbours=neighbours)


# Frechet distance


def test_frechet_of_two_gaussians_is_the_closed_form() -> None:
    """For covariances that commute: |m1 - m2|^2 + sum (s1 - s2)^2 over their shared axes."""
    rotation = torch.linalg.qr(cloud(6, 6, 0)).Q
    one = torch.tensor([3, 2, 1, 0.5, 0.1, 0], dtype=torch.float64)
    other = torch.tensor([1, 0, 4, 0.5, 0.3, 0], dtype=torch.float64)
    means = torch.randn(2, 6, generator=torch.Generator().manual_seed(1)).double()
    made = [
        Statistics(mean, rotation @ torch.diag(s**2) @ rotation.T, 0)
        for mean, s in zip(means, (one, other), strict=True)
    ]
    wanted = float((means[0] - means[1]).square().sum() + (one - other).square().sum())
    assert frechet(*made).value == pytest.approx(wanted, rel=1e-10)


def test_frechet_of_one_dimension_is_the_difference_of_mean_and_spread() -> None:
    x = torch.tensor([[0.0], [2.0], [4.0]], dtype=torch.float64)
    y = 3 * x + 1
    wanted = (y.mean() - x.mean()) ** 2 + (y.std() - x.std()) ** 2
    assert distance(x, y) == pytest.approx(float(wanted), rel=1e-12)


def test_frechet_of_a_set_with_itself_is_zero_and_both_ways_are_equal() -> None:
    x, y = cloud(50, 8, 0), cloud(60, 8, 1, shift=0.3)
    assert distance(x, x) < 1e-11
    assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-12)


def test_frechet_with_fewer_images_than_features_is_exact_and_warns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where both covariances are singular, the nuclear norm of X Y^T gives the root's trace."""
    x, y = cloud(7, 40, 0), cloud(9, 40, 1, shift=1.0)
    with caplog.at_level(logging.WARNING, logger="glide"):
        found = distance(x, y)
    assert "7 images in 40 dimensions" in caplog.text
    a = (x - x.mean(0)) / 6**0.5
    b = (y - y.mean(0)) / 8**0.5
    root = torch.linalg.matrix_norm(a @ b.T, "nuc")
    spread = a.square().sum() + b.square().sum() - 2 * root
    assert found == pytest.approx(float((x.mean(0) - y.mean(0)).square().sum() + spread), rel=1e-9)
    assert distance(x, x) < 1e-9


def test_frechet_does_not_warn_with_enough_images(caplog: pytest.LogCaptureFixture) -> None:
    distance(cloud(50, 8, 0), cloud(60, 8, 1))
    assert caplog.text == ""


def test_an_invalid_covariance_is_refused() -> None:
    wrong = Statistics(torch.zeros(2).double(), torch.diag(torch.tensor([1.0, -1.0])).double(), 0)
    with pytest.raises(GlideError, match="negative eigenvalue"):
        frechet(wrong, wrong)


# KID


def test_kid_is_unbiased_for_two_sets_of_one_distribution() -> None:
    values = torch.tensor(
        [metrics.kid(cloud(30, 6, s) / 5, cloud(30, 6, 500 + s) / 5).value for s in range(200)]
    )
    error = float(values.std() / len(values) ** 0.5)
    assert abs(float(values.mean())) < 3 * error
    assert (values < 0).any()


def test_kid_is_the_mmd_of_its_definition() -> None:
    x, y = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])

    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 2 + 1) ** 3)

    within = k(x[0], x[1]) + k(y[0], y[1])  # each pair counted twice, over 2 * 1 pairs
    across = sum(k(a, b) for a in x for b in y) / 4
    found = metrics.kid(x, y)
    assert found.value == pytest.approx(within - 2 * across)
    assert found.std is None and found.details == {"subsets": 1, "subset_size": 2}


def test_kid_of_subsets_depends_on_the_seed_alone() -> None:
    x, y = cloud(40, 5, 0), cloud(40, 5, 1, shift=0.5)
    first = metrics.kid(x, y, subsets=5, size=20, seed=3)
    assert first == metrics.kid(x, y, subsets=5, size=20, seed=3)
    assert first != metrics.kid(x, y, subsets=5, size=20, seed=4)
    assert first.std is not None and first.std > 0


# Inception score


def test_the_inception_score_is_the_number_of_classes_at_best_and_one_at_worst() -> None:
    sure = torch.eye(4).repeat(5, 1) * 1000
    assert metrics.inception_score(sure, splits=1).value == pytest.approx(4)
    assert metrics.inception_score(torch.zeros(20, 4), splits=2).value == pytest.approx(1)
    assert metrics.inception_score(sure[:1].repeat(9, 1), splits=1).value == pytest.approx(1)


# Precision and recall


def test_precision_and_recall_of_equal_sets_are_one_and_of_disjoint_sets_zero() -> None:
    x = cloud(40, 6, 0)
    for y, wanted in ((x, 1.0), (x.flip(0), 1.0), (x + 1000, 0.0)):
        assert [v.value for v in precision_recall(x, y)] == [wanted, wanted]


def test_precision_and_recall_of_repeated_images_far_from_zero_are_one() -> None:
    """Radii are 0 there, and rounding must not push an image out of its own ball."""
    x = (cloud(3, 50, 0, shift=1e3)).repeat(5, 1)
    assert [v.value for v in precision_recall(x, x)] == [1.0, 1.0]


def test_few_modes_have_precision_without_recall() -> None:
    reference = torch.cat([cloud(30, 4, 0), cloud(30, 4, 1) + 500])
    precision, recall = precision_recall(reference[:30] + 1e-3, reference)
    assert precision.value == 1.0 and 0.3 < recall.value <= 0.5


# Captions


def test_clip_score_is_the_scaled_mean_cosine() -> None:
    image = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    text = torch.tensor([[5.0, 0.0], [1.0, 1.0]])
    found = metrics.clip_score(image, text, scale=50)
    assert found.value == pytest.approx(50 * (1 + 0.5**0.5) / 2)
    assert found.details["100cos"] == pytest.approx(100 * (1 + 0.5**0.5) / 2)
    negative = metrics.clip_score(-image, text)
    assert negative.value == pytest.approx(-100 * (1 + 0.5**0.5) / 2)  # nothing is cut at 0


def test_retrieval_counts_captions_and_images_found() -> None:
    text = torch.eye(3)  # cat, dog, fox
    image = torch.tensor([[1.0, 0.1, 0], [0.9, 0.2, 0.1], [0, 1.0, 0], [0, 0.8, 0.6]])
    found = metrics.retrieval(image, text, torch.tensor([0, 0, 1, 2]))
    assert found["retrieval-caption-top1"].value == 0.75  # the fox looks like a dog
    assert found["retrieval-image-top1"].value == 1.0  # but more like a fox than the others do
    assert found["retrieval-caption-top5"].value == 1.0
    assert found["retrieval-caption-top1"].details == {
        "captions": 3,
        "chance": pytest.approx(1 / 3),
    }


def test_a_tie_counts_as_a_miss() -> None:
    found = metrics.retrieval(torch.ones(3, 2), torch.ones(3, 2), torch.arange(3))
    assert found["retrieval-caption-top1"].value == found["retrieval-image-top1"].value == 0


# Everything


def test_the_order_of_images_changes_nothing() -> None:
    x, y = cloud(40, 6, 0), cloud(40, 6, 1, shift=0.5)
    mixed = x[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    assert distance(mixed, y) == pytest.approx(distance(x, y), rel=1e-10)
    assert metrics.kid(mixed, y).value == pytest.approx(metrics.kid(x, y).value, rel=1e-10)
    assert precision_recall(mixed, y) == precision_recall(x, y)
    one, other = (metrics.inception_score(v, splits=1).value for v in (x, mixed))
    assert one == pytest.approx(other, rel=1e-12)


def test_float32_features_measure_as_their_float64_copies() -> None:
    x, y = cloud(40, 6, 0).float(), cloud(40, 6, 1, shift=0.5).float()
    assert distance(x, y) == distance(x.double(), y.double())
    assert metrics.kid(x, y) == metrics.kid(x.double(), y.double())


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(4, 3), "Expected .* 2 or more"),
        (torch.full((4, 3), math.nan), torch.zeros(4, 3), "features contain NaN"),
        (
            torch.zeros(4, 3),
            torch.full((4, 3), math.inf),
            "reference features contain NaN or infinity",
        ),
        (torch.zeros(4, 3), torch.zeros(4, 5), "3 features and the reference 5"),
        (torch.zeros(4), torch.zeros(4), r"\[images, D\]"),
    ],
)
def test_wrong_features_are_named(x: Tensor, y: Tensor, message: str) -> None:
    for metric in (metrics.kid, metrics.precision):
        with pytest.raises(GlideError, match=message):
            metric(x, y)
    if "reference features" not in message:
        with pytest.raises(GlideError, match=message):
            distance(x, y)


def test_wrong_parameters_are_named() -> None:
    x = cloud(6, 3, 0)
    with pytest.raises(GlideError, match="KID needs 1 subset"):
        metrics.kid(x, x, subsets=0)
    with pytest.raises(GlideError, match="split into 4 parts"):
        metrics.inception_score(x, splits=4)
    with pytest.raises(GlideError, match="6 nearest neighbours among 6"):
        metrics.precision(x, x, neighbours=6)


# Against torch-fidelity 0.4.0, an established library

SILENT = {"verbose": False, "rng_seed": 0}


@pytest.fixture
def sets() -> tuple[Tensor, Tensor]:
    return cloud(60, 8, 0) / 3, cloud(70, 8, 1, shift=0.4, scale=1.2) / 3


def test_frechet_equals_torch_fidelity(sets: tuple[Tensor, Tensor]) -> None:
    fid = pytest.importorskip("torch_fidelity.metric_fid", reason="pip install torch-fidelity")
    stats = [fid.fid_features_to_statistics(x) for x in sets]
    theirs = fid.fid_statistics_to_metric(*stats, verbose=False)[fid.KEY_METRIC_FID]
    assert distance(*sets) == pytest.approx(theirs, rel=1e-9)


def test_frechet_equals_torch_fidelity_with_few_images_to_its_own_rounding() -> None:
    fid = pytest.importorskip("torch_fidelity.metric_fid", reason="pip install torch-fidelity")
    x, y = cloud(12, 40, 0), cloud(15, 40, 1)
    stats = [fid.fid_features_to_statistics(v) for v in (x, y)]
    theirs = fid.fid_statistics_to_metric(*stats, verbose=False)[fid.KEY_METRIC_FID]
    assert distance(x, y) == pytest.approx(theirs, rel=1e-4)  # it takes roots of rounded zeros


def test_kid_equals_torch_fidelity(sets: tuple[Tensor, Tensor]) -> None:
    """On whole sets: the two select subsets with different generators."""
    kid = pytest.importorskip("torch_fidelity.metric_kid", reason="pip install torch-fidelity")
    x, y = sets[0], sets[1][:60]
    theirs = kid.kid_features_to_metric(x, y, kid_subsets=2, kid_subset_size=60, **SILENT)
    assert metrics.kid(x, y).value == pytest.approx(theirs[kid.KEY_METRIC_KID_MEAN], rel=1e-10)


def test_inception_score_equals_torch_fidelity(sets: tuple[Tensor, Tensor]) -> None:
    isc = pytest.importorskip("torch_fidelity.metric_isc", reason="pip install torch-fidelity")
    x = sets[0]
    ours = metrics.inception_score(x, splits=7, seed=5)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    theirs = isc.isc_features_to_metric(x[order], splits=7, shuffle=False)
    assert ours.value == pytest.approx(theirs[isc.KEY_METRIC_ISC_MEAN], rel=1e-12)
    assert ours.std == pytest.approx(theirs[isc.KEY_METRIC_ISC_STD], rel=1e-9)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_precision_and_recall_equal_torch_fidelity(
    sets: tuple[Tensor, Tensor], neighbours: int
) -> None:
    prc = pytest.importorskip("torch_fidelity.metric_prc", reason="pip install torch-fidelity")
    theirs = prc.prc_features_to_metric(
        *sets, prc_neighborhood=neighbours, prc_batch_size=100, save_cpu_ram=False, **SILENT
    )
    precision, recall = precision_recall(*sets, neighbours=neighbours)
    assert 0 < precision.value < 1 and 0 < recall.value < 1
    assert precision.value == pytest.approx(theirs[prc.KEY_METRIC_PRECISION], rel=1e-6)
    assert recall.value == pytest.approx(theirs[prc.KEY_METRIC_RECALL], rel=1e-6)

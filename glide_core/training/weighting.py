"""How hard each noise level is learned: a factor on the simple loss of every timestep.

A weighting is a weight of the squared error of x0, the same whatever the network predicts:
an error d of x0 is an error sqrt(snr) d of eps and sqrt(snr + 1) d of v, with
snr = alpha_bar / (1 - alpha_bar).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from glide_core.config import PredictionType
from glide_core.diffusion.schedule import Schedule
from glide_core.errors import GlideError

WEIGHTINGS = ("uniform", "snr", "truncated-snr", "min-snr", "v")
GAMMA = 5.0  # of min-snr, as its authors recommend
LARGEST = 100.0  # a cap: the eps of the last cosine steps would weigh 1 / alpha_bar = 4e8


def loss_weights(
    name: str, prediction_type: PredictionType, schedule: Schedule
) -> NDArray[np.float64]:
    """Factors [T] on the mean square error of what the network predicts.

    uniform: 1, that error as it is (the paper, for eps). snr: the error of eps, which starves the
    noisiest steps, where the layout is decided. v: the error of v (Salimans and Ho 2022, SNR + 1).
    truncated-snr: max(snr, 1), theirs too. min-snr: min(snr, 5) (Hang et al. 2023).
    """
    if name == "uniform":
        return np.ones(len(schedule))
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    of_x0 = {
        "snr": snr,
        "v": snr + 1,
        "truncated-snr": np.maximum(snr, 1),
        "min-snr": np.minimum(snr, GAMMA),
    }
    if name not in of_x0:
        raise GlideError(f"unknown weighting {name!r}: expected {', '.join(WEIGHTINGS)}")
    own = snr + 1 if prediction_type == "v_prediction" else snr
    weights: NDArray[np.float64] = np.minimum(of_x0[name] / own, LARGEST)
    return weights

"""The fused norm for training on a CPU: torch's values and gradients."""

from __future__ import annotations

import pytest
import torch

from glide_core.models.layers import norm_act
from recipes.emoji import fused_norm


@pytest.mark.skipif(not fused_norm.available(), reason="no C compiler to build the kernel")
@pytest.mark.parametrize("act", [True, False])
def test_the_fused_norm_equals_torch_forward_and_backward(act: bool) -> None:
    norm = torch.nn.GroupNorm(32, 64)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 64, 6, 4, requires_grad=True)
    scale, shift = torch.randn(2, 3, 64, 1, 1).requires_grad_()
    weights = torch.randn(x.shape)
    results = []
    for function in (norm_act, fused_norm.fused_norm):
        y = function(norm, x, scale, shift, act=act)
        inputs = [x, scale, shift, norm.weight, norm.bias]
        results.append([y, *torch.autograd.grad((y * weights).sum(), inputs)])
    for want, got in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not fused_norm.available(), reason="no C compiler to build the kernel")
@pytest.mark.parametrize("sign", [1, -1])
def test_the_fused_norm_stays_finite_on_a_flat_image_with_one_bright_pixel(sign: int) -> None:
    norm = torch.nn.GroupNorm(32, 32)
    x = torch.zeros(1, 32, 128, 128)
    x[:, :, 3, 5] = 5.0 * sign  # normalises to about 128, where exp overflows
    x = (x + 1e-4 * torch.randn(x.shape)).requires_grad_()
    y = fused_norm.fused_norm(norm, x, act=True)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.isfinite(y).all()
    assert torch.isfinite(grad).all()
    torch.testing.assert_close(y, norm_act(norm, x, act=True), rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not fused_norm.available(), reason="no C compiler to build the kernel")
def test_loading_the_kernel_leaves_denormal_numbers_alone() -> None:
    smallest = 2.2250738585072014e-308
    assert smallest / 2 > 0
    assert float(torch.tensor([smallest], dtype=torch.float64).div(2)) > 0

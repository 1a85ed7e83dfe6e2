"""The kernel computes what vLLM's layer states, and what it can't compute is left to the layer."""

from collections.abc import Iterator

import pytest
import torch
from vllm.config import CompilationConfig, VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.layernorm import RMSNorm

from actors import norm_cpu
from actors.norm_cpu import KernelRMSNorm

# Two roundings in the format of the numbers.
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-7}


@pytest.fixture(autouse=True)
def vllm_config() -> Iterator[None]:
    # As engines that run without a compiler choose by themselves.
    with set_current_vllm_config(VllmConfig(compilation_config=CompilationConfig(custom_ops=["all"]))):
        norm_cpu.install()
        yield


def layer(width: int, dtype: torch.dtype = torch.float32) -> RMSNorm:
    found = RMSNorm(width, eps=1e-5, dtype=dtype)
    found.weight.data.copy_(torch.randn(width))
    return found


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("width", [16, 48, 576, 20])
@pytest.mark.parametrize("strided", [False, True])
def test_it_is_the_layers_own_formula(dtype: torch.dtype, width: int, strided: bool) -> None:
    found = layer(width, dtype)
    assert isinstance(found, KernelRMSNorm)
    x, residual = (torch.randn(7, 2 * width, dtype=dtype)[:, :width] for _ in range(2))
    if not strided:
        x, residual = x.contiguous(), residual.contiguous()
    exact = x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-5).rsqrt() * found.weight.double()
    near = ROUNDING[dtype] * 4
    torch.testing.assert_close(found(x.clone()).double(), exact, rtol=near, atol=near)
    wanted = found.forward_native(x.clone(), residual.clone())
    for left, right in zip(found(x.clone(), residual.clone()), wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=near, atol=near)


def test_the_kernel_is_what_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("left to the layer")

    monkeypatch.setattr(KernelRMSNorm, "forward_native", refuse)
    found = layer(32)
    found(torch.randn(2, 32))
    found(torch.randn(2, 32), torch.randn(2, 32))
    with pytest.raises(AssertionError, match="left to the layer"):
        layer(20)(torch.randn(2, 20))

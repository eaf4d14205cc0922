"""Which library multiplies float32 matrices on this CPU: MKL, or oneDNN where it is faster and as exact."""

import time
from dataclasses import dataclass

import torch

SIDE, REPEATS = 1024, 5
FLOAT32 = 5e-6  # relative error; bfloat16, to which oneDNN rounds on some CPUs, has 3e-3


@dataclass(frozen=True)
class Matmul:
    """What a matrix product costs by one of the libraries: seconds, and relative error."""

    seconds: float
    error: float


def measure(precision: str) -> Matmul:
    """A product by `torch.set_float32_matmul_precision(precision)`, which is left as it was."""
    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SIDE, SIDE, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    torch.set_float32_matmul_precision(precision)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        product = a @ b
        seconds.append(time.perf_counter() - start)
    torch.set_float32_matmul_precision(before)
    return Matmul(min(seconds), float((product - exact).norm() / exact.norm()))


def is_better(onednn: Matmul, mkl: Matmul) -> bool:
    """Whether oneDNN is to be taken: clearly faster, and exact to float32."""
    return onednn.error < FLOAT32 and onednn.seconds < 0.9 * mkl.seconds


def choose_matmul() -> str:
    """Choose for this process; says in one sentence what, and why."""
    mkl, onednn = measure("highest"), measure("medium")
    chosen = is_better(onednn, mkl)
    torch.set_float32_matmul_precision("medium" if chosen else "highest")
    rates = [2 * SIDE**3 / m.seconds / 1e9 for m in (onednn, mkl)]
    return (
        f"float32 matrix products by {'oneDNN' if chosen else 'MKL'}: oneDNN {rates[0]:.0f} GFLOP/s at relative error "
        f"{onednn.error:.0e}, MKL {rates[1]:.0f} at {mkl.error:.0e}"
    )

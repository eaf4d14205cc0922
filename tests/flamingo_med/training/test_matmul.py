"""The choice between MKL and oneDNN."""

import pytest
import torch

from flamingo_med.training.matmul import Matmul, choose_matmul, is_better, measure


@pytest.fixture(autouse=True)
def left_as_it_was():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def test_faster_and_as_exact():
    mkl = Matmul(seconds=1.0, error=4e-7)
    assert is_better(Matmul(0.5, 9e-7), mkl)
    assert not is_better(Matmul(0.95, 9e-7), mkl)  # within noise
    assert not is_better(Matmul(0.1, 3e-3), mkl)  # rounds to bfloat16


def test_on_this_machine():
    assert 0 < measure("highest").error < 5e-6
    sentence = choose_matmul()
    chosen = torch.get_float32_matmul_precision()
    assert sentence.startswith(f"float32 matrix products by {'oneDNN' if chosen == 'medium' else 'MKL'}: ")

"""Errors as frameworks raise them, and what they say."""

import numpy as np
import pytest

from sluice.errors import InvalidRequest, ModelFailed
from sluice.workers.faults import Fault, classify, is_broken

OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})


def wrapped(error: Exception) -> Exception:
    """As a backend raises it."""
    try:
        raise ModelFailed("the model raised something") from error
    except ModelFailed as failure:
        return failure


CASES = [
    (InvalidRequest("input 'x' is beyond the vocabulary"), Fault.REFUSED),
    (ModelFailed("the number of the beast"), Fault.MODEL),
    (ValueError("shapes (3,4) and (5,6) not aligned"), Fault.MODEL),
    (KeyError("k"), Fault.MODEL),
    (MemoryError(), Fault.MEMORY),
    (np._core._exceptions._ArrayMemoryError((1 << 60,), np.dtype("f4")), Fault.MEMORY),  # type: ignore[attr-defined]
    (OutOfMemoryError("Tried to allocate 2.00 GiB"), Fault.MEMORY),
    (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 15.90 GiB total capacity)"), Fault.MEMORY),
    (
        RuntimeError(
            "Non-zero status code returned while running ReduceSum node. BFCArena::AllocateRawInternal "
            "Failed to allocate memory for requested buffer of size 939524096"
        ),
        Fault.MEMORY,
    ),
    (RuntimeError("CUDA failure 2: out of memory ; GPU=0 ; hostname=h"), Fault.MEMORY),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), Fault.MEMORY),
    (RuntimeError("std::bad_alloc"), Fault.MEMORY),
    (RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0"), Fault.DEVICE),
    (RuntimeError("CUDA error: device-side assert triggered"), Fault.DEVICE),
    (RuntimeError("CUDA error: unspecified launch failure"), Fault.DEVICE),
    (RuntimeError("CUDA error: uncorrectable ECC error encountered"), Fault.DEVICE),
    (RuntimeError("CUDA error: misaligned address"), Fault.DEVICE),
    (RuntimeError("cuda runtime error (719) : something at file.cpp:21"), Fault.DEVICE),
    (RuntimeError("CUDA failure 46: all CUDA-capable devices are busy or unavailable"), Fault.DEVICE),
    (RuntimeError("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0"), Fault.DEVICE),
    (RuntimeError("CUDNN failure 8: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0"), Fault.DEVICE),
    # Numbers that are no codes of CUDA, and codes that the process survives.
    (RuntimeError("row 700 is out of range, cuda or not"), Fault.MODEL),
    (RuntimeError("CUDA failure 1: invalid argument ; GPU=0"), Fault.MODEL),
    (RuntimeError("CUDA error 7001"), Fault.MODEL),
]


@pytest.mark.parametrize(("error", "fault"), CASES, ids=lambda value: str(value)[:40])
def test_what_an_error_says(error: Exception, fault: Fault) -> None:
    assert classify(error) is fault


@pytest.mark.parametrize(("error", "fault"), CASES[6:], ids=lambda value: str(value)[:40])
def test_what_led_to_an_error_counts(error: Exception, fault: Fault) -> None:
    assert classify(wrapped(error)) is fault


def test_a_circle_of_causes_ends() -> None:
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__cause__, other.__cause__ = other, one
    assert classify(one) is Fault.MODEL


@pytest.mark.parametrize(
    ("reason", "broken"),
    [
        ("CUDA error: uncorrectable ECC error encountered", True),
        ("CUDA failure 214: uncorrectable ...", True),
        ("CUDA failure 100: no CUDA-capable device is detected", True),
        ("CUDA failure 700: an illegal memory access was encountered", False),
        ("CUDA error: device-side assert triggered", False),
        ("uncorrected", False),
    ],
)
def test_what_no_request_can_bring_about(reason: str, broken: bool) -> None:
    assert is_broken(reason) is broken

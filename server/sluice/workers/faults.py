"""What an error that a model raised says about its request, the model, and the device: told by the error's type and
text, inside the worker process, where both are still there.

CUDA's codes are those of `cudaError` in its runtime API. Sticky are those of which its documentation says that they
leave the process in an inconsistent state, so that it must be terminated and relaunched, and those by which a device
says that it is broken or gone. onnxruntime writes them as "CUDA failure 700: ...", its allocators as
"BFCArena::AllocateRawInternal ... Failed to allocate memory for requested buffer of size ..." (its issue 16307);
torch as "CUDA error: ..." with the runtime's description. A process that met one of them is of no use any more, which
is why they are looked for before anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum

from sluice.errors import InvalidRequest


class Fault(StrEnum):
    """Whose fault it is."""

    REFUSED = "refused"  # the request's
    MODEL = "model"  # the model's, or nobody knows
    MEMORY = "memory"  # it is more than the device, or the process, has memory for
    DEVICE = "device"  # the device's, or what is left of it: the process must be replaced


# cudaErrorDevicesUnavailable, NoDevice, ECCUncorrectable, NvlinkUncorrectable, IllegalAddress, LaunchTimeout,
# ContextIsDestroyed, Assert, HardwareStackError, IllegalInstruction, MisalignedAddress, InvalidAddressSpace, InvalidPc,
# LaunchFailure, Unknown.
STICKY = (46, 100, 214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 999)
BROKEN = (46, 100, 214, 220, 999)  # of these: no request can bring them about
OUT_OF_MEMORY = 2

_CODE = re.compile(r"\bcuda\s*(?:runtime\s*)?(?:failure|error)\s*:?\s*\(?(\d+)\b", re.IGNORECASE)
_BROKEN_TEXTS = (
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "cuda-capable device(s) is/are busy or unavailable",
    "cudaerrordevicesunavailable",
    "cudaerroreccuncorrectable",
    "no cuda-capable device is detected",
)
_DEVICE_TEXTS = (
    *_BROKEN_TEXTS,
    "illegal memory access",
    "unspecified launch failure",
    "device-side assert",
    "misaligned address",
    "illegal instruction was encountered",
    "hardware stack error",
    "invalid program counter",
    "the launch timed out and was terminated",
    "cudaerrorillegaladdress",
    "cudaerrorlaunchfailure",
    "cublas_status_execution_failed",
    "cudnn_status_execution_failed",
)
_MEMORY_TEXTS = (
    "failed to allocate memory",
    "bfcarena::allocate",
    "cuda out of memory",
    "out of memory",
    "cudaerrormemoryallocation",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "std::bad_alloc",
    "smaller than requested bytes",  # onnxruntime's arena, when it has a limit
)
_MEMORY_TYPES = {"OutOfMemoryError", "_ArrayMemoryError"}


def classify(error: BaseException) -> Fault:
    """A backend wraps what a framework raised: everything that led to the error is looked at."""
    chain = list(_chain(error))
    texts = [str(one).lower() for one in chain]
    if any(_says_device(text) for text in texts):
        return Fault.DEVICE
    if any(map(_is_memory, chain)) or any(_says_memory(text) for text in texts):
        return Fault.MEMORY
    return Fault.REFUSED if isinstance(error, InvalidRequest) else Fault.MODEL


def is_broken(reason: str) -> bool:
    """Whether what a device failed with is nothing that a request can bring about."""
    text = reason.lower()
    return any(known in text for known in _BROKEN_TEXTS) or bool(_codes(text) & set(BROKEN))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        yield found
        seen.add(id(found))
        found = found.__cause__


def _is_memory(error: BaseException) -> bool:
    # By name, so that no framework has to be there.
    return isinstance(error, MemoryError) or type(error).__name__ in _MEMORY_TYPES


def _codes(text: str) -> set[int]:
    return {int(code) for code in _CODE.findall(text)}


def _says_device(text: str) -> bool:
    return any(known in text for known in _DEVICE_TEXTS) or bool(_codes(text) & set(STICKY))


def _says_memory(text: str) -> bool:
    return any(known in text for known in _MEMORY_TEXTS) or OUT_OF_MEMORY in _codes(text)

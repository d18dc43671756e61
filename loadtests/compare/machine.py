"""Names the machine and the moment of a run."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "amx_int8", "asimd")


def facts(cpuinfo: Path = Path("/proc/cpuinfo"), meminfo: Path = Path("/proc/meminfo")) -> dict[str, str]:
    """Cores, processor, memory and system, for people."""
    found = {"cores": str(len(os.sched_getaffinity(0))), "processor": platform.machine()}
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    if name := re.search(r"^model name\s*: (.+)$", text, re.MULTILINE):
        found["processor"] = name[1]
    if flags := re.search(r"^(?:flags|Features)\s*: (.+)$", text, re.MULTILINE):
        known = [flag for flag in _CPU_FLAGS if flag in flags[1].split()]
        found["processor"] += f" ({', '.join(known)})" if known else ""
    memory = meminfo.read_text() if meminfo.exists() else ""
    if total := re.search(r"^MemTotal:\s*(\d+) kB", memory, re.MULTILINE):
        found["memory"] = f"{int(total[1]) / 2**20:.0f} GiB"
    found["system"] = platform.system()
    found["Python"] = platform.python_version()
    return found

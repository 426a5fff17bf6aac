"""What machine the bench ran on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import openslide

LIBRARIES = ("Pillow", "simplejpeg", "numpy", "requests")


def machine() -> str:
    """The processor, its cores, how busy they are now, and the software that counts."""
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"{_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"{platform.system()}; Python {platform.python_version()}, {libraries}, "
        f"OpenSlide {openslide.__library_version__}"
    )


def _processor() -> str:
    """The model's name, which only Linux tells in a file."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

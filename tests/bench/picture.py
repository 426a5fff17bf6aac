"""Make README's picture of the gallery, from the mirror that `make run` makes.

`python -m tests.bench.picture` writes gallery.png beside this file.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.support.browser import started, visiting
from tests.support.command import ROOT
from tests.support.demo import MIRROR

PICTURE = Path(__file__).parent / "gallery.png"
WINDOW = (1200, 800)
COLOURS = 256

_LOADED = "document.images.length > 4 && [...document.images].every((image) => image.complete)"


def main() -> None:
    command = [sys.executable, str(ROOT / "main.py"), "--mirror", str(MIRROR), "gallery"]
    subprocess.run(command, check=True, timeout=300)
    with started() as browser, visiting(browser, MIRROR.resolve().as_uri(), window=WINDOW) as visit:
        visit.go("index.html")
        visit.until(_LOADED)
        shot = visit.page.screenshot()
    with Image.open(io.BytesIO(shot)) as image:
        image.convert("RGB").quantize(COLOURS).save(PICTURE, optimize=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

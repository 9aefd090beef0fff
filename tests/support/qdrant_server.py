"""A server for the tests of the Qdrant adapter: the one of PERDURE_TEST_QDRANT_URL, else one of our own.

Our own is `examples/demo/qdrant_front.py`. Storage, filters, scoring and durability are Qdrant's (the Rust engine in
qdrant-edge-py); the HTTP layer is ours. It is not Qdrant, and a test that needs what only Qdrant has must say so.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from examples.demo.qdrant_server import QdrantServer

URL_VARIABLE = "PERDURE_TEST_QDRANT_URL"
#: The file with the key for that server; not set: it asks for none.
KEY_VARIABLE = "PERDURE_TEST_QDRANT_API_KEY_FILE"


class QdrantBench:
    """What the tests talk to. `own` is the server of ours, for tests that kill it or change its key."""

    def __init__(self) -> None:
        self._own: QdrantServer | None = None

    @property
    def own(self) -> QdrantServer:
        """A running server of ours that asks for a key."""
        if self._own is None:
            self._own = QdrantServer(api_key="the first key")
        self._own.start()
        return self._own

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the server that the environment names, else of our own."""
        url = os.environ.get(URL_VARIABLE)
        if not url:
            return self.own.host, self.own.port
        parts = urlsplit(url)
        assert parts.hostname, f"{URL_VARIABLE} has no host"
        return parts.hostname, parts.port or 6333

    @property
    def api_key_file(self) -> str:
        """The file with the key for `address`; "": it needs none."""
        return os.environ.get(KEY_VARIABLE, "") if os.environ.get(URL_VARIABLE) else str(self.own.api_key_file)

    def close(self) -> None:
        """End our server, if it was started."""
        if self._own is not None:
            self._own.close()


def description() -> str:
    """What is used, for the head of a test run."""
    if os.environ.get(URL_VARIABLE):
        return f"qdrant: the server that {URL_VARIABLE} names"
    return "qdrant: our own REST front over qdrant-edge (Qdrant's engine, not its server)"

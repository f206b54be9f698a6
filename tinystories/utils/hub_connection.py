"""Check whether the Hub can be reached, once, before any library sends a request.

Without a connection, `huggingface_hub` retries for 23 seconds per file, also for optional files of a model in its
cache. It waits without limit for a name server, and in some requests for an answer.
"""

import functools
import threading

from huggingface_hub import constants
from huggingface_hub.utils import get_session

from .errors import first_line


CONNECT_TIME = 5  # seconds for the name server and the connection; on slow lines, answers take longer


@functools.cache  # of successes: an exception is not cached
def require_hub(endpoint: str | None = None) -> None:
    """Send the Hub one request, and wait up to `HF_HUB_ETAG_TIMEOUT` seconds for its answer.

    Args:
        endpoint: address of the Hub, by default that of `huggingface_hub`.

    Raises:
        ConnectionError: with the reason, if there is no connection within `CONNECT_TIME` or no answer.
    """
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    is_connected = threading.Event()
    errors: list[Exception] = []

    def trace(event: str, _: dict) -> None:
        if event == "connection.connect_tcp.complete":
            is_connected.set()

    def send() -> None:
        try:
            timeout = constants.HF_HUB_ETAG_TIMEOUT
            address = endpoint or constants.ENDPOINT
            get_session().head(address, follow_redirects=False, timeout=timeout, extensions={"trace": trace})
        except Exception as error:
            errors.append(error)
        is_connected.set()

    # A thread, because neither the wait for a name server nor that for all addresses of a host can be limited.
    request = threading.Thread(target=send, daemon=True)
    request.start()
    if not is_connected.wait(CONNECT_TIME):
        raise ConnectionError(f"no connection within {CONNECT_TIME} seconds")
    request.join()
    if errors:
        raise ConnectionError(first_line(errors[0])) from errors[0]

"""Where a metric's name leads: a local script, the `evaluate` cache, the hub, or this package."""

import difflib
import functools
import logging
import os
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import evaluate
import huggingface_hub.constants

from tbtrainer.metrics.bundled import BUNDLED, Perplexity

logger = logging.getLogger(__name__)

# The hub's metric of this name loads a model and scores texts with it.
ALWAYS_BUNDLED = {"perplexity": Perplexity}


def load_metric(name: str, network_seconds: float) -> evaluate.EvaluationModule:
    """Finds a metric by its name, or the path of its script, and loads it into memory.

    A local script comes first, then the hub if it answers, then the `evaluate` cache, then the
    metrics of this package. `"perplexity"` is always this package's.

    Args:
        name: As for `evaluate.load`.
        network_seconds: How long to wait for the hub to answer at all. It is asked once per
            process; with `HF_HUB_OFFLINE` or `HF_EVALUATE_OFFLINE` set, never.

    Returns:
        The metric, for a single process: `Trainer` has already gathered what it is given.

    Raises:
        ValueError: There is no such metric anywhere. The message says what was tried.
    """
    if name in ALWAYS_BUNDLED:
        return ALWAYS_BUNDLED[name]()
    unreachable = why_hub_is_unreachable(network_seconds)
    try:
        with _without_hub() if unreachable else nullcontext():
            # Never `num_process`: every rank of a distributed run holds all predictions here.
            return evaluate.load(name, keep_in_memory=True)
    # Also a missing requirement of the metric's script, or a broken script.
    except Exception as error:
        if name in BUNDLED:
            logger.info("Metric %r is tbtrainer's own; evaluate says: %s", name, error)
            return BUNDLED[name]()
        raise ValueError(_what_was_tried(name, unreachable, error)) from error


def why_hub_is_unreachable(network_seconds: float) -> str | None:
    """Says why the hub cannot be asked, or `None` if it answers within the time."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "not asked, because HF_HUB_OFFLINE is set"
    if evaluate.config.HF_EVALUATE_OFFLINE:
        return "not asked, because HF_EVALUATE_OFFLINE is set"
    url = huggingface_hub.constants.ENDPOINT
    scheme = urllib.parse.urlsplit(url).scheme
    if _answers(urllib.request.getproxies().get(scheme, url), network_seconds):
        return None
    return f"{url} did not answer within {network_seconds:g} s"


@functools.lru_cache(maxsize=8)
def _answers(url: str, seconds: float) -> bool:
    """Whether a connection can be opened, asked in a thread: a name server may hang for long."""
    address = urllib.parse.urlsplit(url if "//" in url else f"//{url}")
    port = address.port or (80 if address.scheme == "http" else 443)
    connected = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((address.hostname or "", port), timeout=seconds).close()
        except OSError:
            return
        connected.set()

    asking = threading.Thread(target=connect, daemon=True, name="tbtrainer-hub-check")
    asking.start()
    asking.join(seconds)
    return connected.is_set()


@contextmanager
def _without_hub() -> Iterator[None]:
    """Lets `evaluate.load` look at local scripts and its cache only."""
    before = evaluate.config.HF_EVALUATE_OFFLINE
    evaluate.config.HF_EVALUATE_OFFLINE = True
    try:
        yield
    finally:
        evaluate.config.HF_EVALUATE_OFFLINE = before


def _what_was_tried(name: str, unreachable: str | None, error: Exception) -> str:
    cache = os.path.join(evaluate.config.HF_MODULES_CACHE, "evaluate_modules", "metrics")
    script = os.path.basename(os.path.normpath(name)).removesuffix(".py") + ".py"
    close = difflib.get_close_matches(name, BUNDLED, n=1)
    lines = [
        f"There is no metric {name!r}. Tried:",
        f"- a local script, {name} or {os.path.join(name, script)}",
        f"- the hub{f': {unreachable}' if unreachable else ''}",
        f"- the evaluate cache, {cache}",
        f"  of these evaluate says: {type(error).__name__}: {error}",
        f"- the metrics that come with tbtrainer: {', '.join(BUNDLED)}",
        f"Did you mean {close[0]!r}?" if close else "",
        "An evaluate.Metric of your own can be passed in place of a name.",
    ]
    return "\n".join(line for line in lines if line)

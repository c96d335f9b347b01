"""Finds metrics by name: a local script, the hub, the `evaluate` cache, or this package."""

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

from tbtrainer.metrics.bundled import BUNDLED, BundledMetric, Perplexity
from tbtrainer.metrics.texts import TEXT_METRICS

logger = logging.getLogger(__name__)

# The hub's perplexity loads a model and scores texts with it. Its metrics of texts would have to be
# downloaded, and need the same libraries as ours.
ALWAYS_BUNDLED: dict[str, type[BundledMetric]] = {"perplexity": Perplexity, **TEXT_METRICS}


def load_metric(name: str, network_seconds: float) -> evaluate.EvaluationModule:
    """Finds a metric by its name, or the path of its script, and loads it into memory.

    A local script comes first, then the hub if it answers, then the `evaluate` cache, then the
    metrics of this package. Those in `ALWAYS_BUNDLED` are always this package's.

    Args:
        name: As for `evaluate.load`.
        network_seconds: How long to wait for a connection to the hub. The hub is contacted once per
            process, and never if `HF_HUB_OFFLINE` or `HF_EVALUATE_OFFLINE` is set.

    Returns:
        The metric, for a single process, because `Trainer` gathers the predictions itself.

    Raises:
        ValueError: The metric is not found. The message lists where it was looked up.
        ImportError: The metric needs a package that is not installed.
    """
    if name in ALWAYS_BUNDLED:
        return ALWAYS_BUNDLED[name]()
    unreachable = why_hub_is_unreachable(network_seconds)
    try:
        with _without_hub() if unreachable else nullcontext():
            # Without `num_process`, because every rank already has all predictions.
            return evaluate.load(name, keep_in_memory=True)
    # The script of a metric may raise anything, for instance if a requirement is missing.
    except Exception as error:
        if name in BUNDLED:
            logger.info(
                "Metric %r is tbtrainer's own, because evaluate failed to load it: %s", name, error
            )
            return BUNDLED[name]()
        raise ValueError(_what_was_tried(name, unreachable, error)) from error


def why_hub_is_unreachable(network_seconds: float) -> str | None:
    """Returns why the hub is unreachable, or `None` if it answers within `network_seconds`."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "not contacted, because HF_HUB_OFFLINE is set"
    if evaluate.config.HF_EVALUATE_OFFLINE:
        return "not contacted, because HF_EVALUATE_OFFLINE is set"
    url = huggingface_hub.constants.ENDPOINT
    scheme = urllib.parse.urlsplit(url).scheme
    if _answers(urllib.request.getproxies().get(scheme, url), network_seconds):
        return None
    return f"{url} did not answer within {network_seconds:g} s"


@functools.lru_cache(maxsize=8)
def _answers(url: str, seconds: float) -> bool:
    """Returns whether a connection can be opened within some seconds.

    A thread opens it, because looking up the host's name has no time limit.
    """
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
    """Restricts `evaluate.load` to local scripts and its cache."""
    before = evaluate.config.HF_EVALUATE_OFFLINE
    evaluate.config.HF_EVALUATE_OFFLINE = True
    try:
        yield
    finally:
        evaluate.config.HF_EVALUATE_OFFLINE = before


def _what_was_tried(name: str, unreachable: str | None, error: Exception) -> str:
    cache = os.path.join(evaluate.config.HF_MODULES_CACHE, "evaluate_modules", "metrics")
    script = os.path.basename(os.path.normpath(name)).removesuffix(".py") + ".py"
    ours = [*BUNDLED, *TEXT_METRICS]
    close = difflib.get_close_matches(name, ours, n=1)
    lines = [
        f"There is no metric {name!r}. Tried:",
        f"- a local script, {name} or {os.path.join(name, script)}",
        f"- the hub{f': {unreachable}' if unreachable else ''}",
        f"- the evaluate cache, {cache}",
        f"  for all of these, evaluate raised {type(error).__name__}: {error}",
        f"- the metrics that come with tbtrainer: {', '.join(ours)}",
        f"Did you mean {close[0]!r}?" if close else "",
        "An evaluate.Metric of your own can be passed in place of a name.",
    ]
    return "\n".join(line for line in lines if line)

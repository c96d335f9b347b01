"""Hides secrets in arguments, configurations, log entries and messages.

Two methods are combined, because each alone misses secrets. A value is hidden if its key names a
secret. A part of a text is hidden if it looks like a secret, whatever the key of the text.

docs/secrets.md lists what is recognised, with measured rates.
"""

from tbtrainer.redaction.key_names import names_a_secret
from tbtrainer.redaction.tokens import HIDDEN
from tbtrainer.redaction.urls import without_url_credentials
from tbtrainer.redaction.values import (
    naming_key,
    redacted,
    redacted_card,
    redacted_json,
    redacted_name,
    redacted_text,
    shown,
)

__all__ = [
    "HIDDEN",
    "names_a_secret",
    "naming_key",
    "redacted",
    "redacted_card",
    "redacted_json",
    "redacted_name",
    "redacted_text",
    "shown",
    "without_url_credentials",
]

"""What may be written about arguments, configurations and logged values: everything but secrets.

Two nets, because either alone has holes: values of keys that name a secret are hidden whatever they
are, and every text is searched for what looks like a secret whatever its key.

docs/secrets.md lists what is recognised, with measured rates.
"""

from tbtrainer.redaction.key_names import names_a_secret
from tbtrainer.redaction.tokens import HIDDEN
from tbtrainer.redaction.urls import without_url_credentials
from tbtrainer.redaction.values import (
    naming_key,
    redacted,
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
    "redacted_json",
    "redacted_name",
    "redacted_text",
    "shown",
    "without_url_credentials",
]

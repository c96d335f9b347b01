"""What may be written about arguments and configurations: everything but their secrets."""

import json
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "<hidden>"

_SECRET_KEY = re.compile(
    r"token(?!iz)|secret|password|passwd|credential|webhook|authorization|bearer|cookie"
    r"|api_?key|access_?key|private_?key|auth_?key|(^|_)key$|(^|_)pwd($|_)",
    re.IGNORECASE,
)
# Names that hold the word but no secret: counts of tokens, ids and names of special ones.
_HARMLESS_KEY = re.compile(
    r"(num|max|min|new|total|seen|special|input|per)_?.*tokens?|tokens?_(id|ids|per|type|seen)"
    r"|_token_id$|token_index|tokens$",
    re.IGNORECASE,
)
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_URL_SECRET_PARAMETER = re.compile(
    r"(?<=[?&])([^=&\s]*(?:token|secret|password|key|signature|sig|auth)[^=&\s]*)=[^&\s]+",
    re.IGNORECASE,
)
# Tokens that say what they are, wherever they stand.
_KNOWN_TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_\w{20,}|xox[abprs]-[\w-]{10,}|AKIA[A-Z0-9]{12,}|glpat-[\w-]{16,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,})"
)
_ASSIGNED = re.compile(
    r"((?:token|secret|password|passwd|api[_-]?key|authorization)\s*[=:]\s*(?:bearer\s+)?)"
    r"[^\s,;&\"']+",
    re.IGNORECASE,
)


def redacted(value: Any, key: str = "") -> Any:
    """Returns a value with its secrets replaced by `<hidden>`, at any depth.

    Hidden are the values of keys that name a secret, credentials and secret parameters in URLs,
    tokens of known form and assignments such as `password=...` inside text. Text that holds JSON is
    read and redacted as JSON.

    Args:
        value: A number, text, mapping, sequence, or anything with a text form.
        key: The name the value has.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_KEY.search(key) and not _HARMLESS_KEY.search(key):
        return HIDDEN if value else value
    if isinstance(value, Mapping):
        return {redacted_text(str(k)): redacted(v, str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(item, key) for item in value]
    return redacted_text(str(value))


def redacted_text(text: str) -> str:
    """Returns a text with the secrets inside it replaced."""
    if text.lstrip()[:1] in ("{", "["):
        try:
            return json.dumps(redacted(json.loads(text)))
        except ValueError:
            pass
    text = _URL_CREDENTIALS.sub(HIDDEN, text)
    text = _URL_SECRET_PARAMETER.sub(rf"\1={HIDDEN}", text)
    text = _KNOWN_TOKEN.sub(HIDDEN, text)
    return _ASSIGNED.sub(rf"\1{HIDDEN}", text)


def redacted_json(values: Mapping[str, Any]) -> str:
    """Returns a mapping as indented JSON without its secrets."""
    return json.dumps(redacted(values), indent=2)

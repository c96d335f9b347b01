"""Hides the secrets in values of any structure."""

import json
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

from tbtrainer.redaction.assignments import (
    is_secret_pair,
    secrets_of_command,
    without_assigned_secrets,
)
from tbtrainer.redaction.key_names import always_names_a_secret, names_a_secret
from tbtrainer.redaction.tokens import HIDDEN, without_known_tokens, without_random_words
from tbtrainer.redaction.urls import without_login_credentials, without_url_credentials

# Types whose text form is their value.
_SHOWN_AS_TEXT = (str, PurePath, Enum)
# How many levels are shown. No configuration is deeper; a structure may contain itself.
_DEEPEST = 32
# The most characters of a path or an error that `shown` returns.
LONGEST_SHOWN = 200
# `{"name": "DB_PASSWORD", "value": ...}`
_NAME_FIELDS = frozenset(("name", "key", "variable", "var", "field", "env", "header", "option"))
_VALUE_FIELDS = frozenset(("value", "val", "content", "data", "default"))


def redacted(value: Any, key: str = "") -> Any:
    """Returns a value with its secrets replaced by `<hidden>`, at any depth.

    Numbers, texts, paths, enumerations, dtypes and devices are shown, and mappings and sequences of
    them. Of other objects only the type is shown. These are hidden: values of keys that name a
    secret, credentials and secret parameters in URLs, tokens of known form, values of assignments
    such as `password=...` inside a text, and long words that look random. A text that contains JSON
    is parsed and redacted as JSON.

    Args:
        value: A value of any type.
        key: The name of the value, such as the key of a mapping.

    Example:
        >>> redacted({"lr": 1e-4, "db_password": "x", "url": "s3://id:key@bucket"})
        {'lr': 0.0001, 'db_password': '<hidden>', 'url': 's3://<hidden>@bucket'}
    """
    return _redacted(value, key, _DEEPEST)


def redacted_text(text: str) -> str:
    """Returns a text, such as a log message, with its secrets replaced by `<hidden>`."""
    return _redacted_text(text, "", _DEEPEST)


def shown(value: object) -> str:
    """Returns a path, a URL or an error as a message may show it: on one line, without secrets.

    At most `LONGEST_SHOWN` characters are shown. Control characters and line breaks, which a
    downloaded file may have in its name, are shown as escape sequences.
    """
    text = redacted_text(str(value))
    if len(text) > LONGEST_SHOWN:
        text = f"{text[:LONGEST_SHOWN]}…"
    return text if text.isprintable() else json.dumps(text)


def redacted_name(name: str) -> str:
    """Returns a name, such as a tag, with its secrets replaced by `<hidden>`.

    Hexadecimal digits are shown, so that names that differ only in them stay different.
    """
    return _redacted_text(name, "id", _DEEPEST)


def redacted_card(text: str, tag: str) -> str:
    """Returns the text of a card with its secrets replaced by `<hidden>`.

    The tag may name a secret that is the whole text. If its last part does so whatever the value
    is, such as `password`, the whole text is hidden. Other names, such as that of the card
    `eval/token_classes`, may be about something else: they hide a text of one word.

    Example:
        >>> redacted_card("open sesame", "door/password"), redacted_card("abc", "hub_token")
        ('<hidden>', '<hidden>')
        >>> redacted_card("| token | loss |", "eval/worst_token")
        '| token | loss |'
    """
    words = len(text.split())
    if words > 0 and always_names_a_secret(tag.rpartition("/")[2]):
        return HIDDEN
    return str(redacted(text, tag if words == 1 else ""))


def redacted_json(values: Mapping[str, Any]) -> str:
    """Returns a mapping as indented JSON, with its secrets replaced by `<hidden>`."""
    return json.dumps(redacted(values), indent=2)


def naming_key(values: Mapping[Any, Any], field: Any) -> str:
    """Returns the name of a field of a mapping, or the name that another field gives its value.

    Example:
        >>> naming_key({"name": "DB_PASSWORD", "value": "x"}, "value")
        'DB_PASSWORD'
    """
    if str(field).lower() in _VALUE_FIELDS:
        for name, inner in values.items():
            is_name = str(name).lower() in _NAME_FIELDS and isinstance(inner, str)
            if is_name and names_a_secret(inner, values[field]):
                return str(inner)
    return str(field)


def _redacted(value: Any, key: str, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if names_a_secret(key, value):
        return HIDDEN if value else value
    if isinstance(value, int | float):
        return value
    if depth == 0 or isinstance(value, bytes | bytearray):
        return HIDDEN
    if isinstance(value, Mapping):
        return _redacted_mapping(value, depth - 1)
    if isinstance(value, list | tuple | set | frozenset):
        return _redacted_items(list(value), key, depth - 1)
    if isinstance(value, _SHOWN_AS_TEXT) or _is_dtype_or_device(value):
        return _redacted_text(str(value), key, depth - 1)
    # An object's repr may contain secrets, so only its type is shown.
    return f"<{type(value).__name__}>"


def _is_dtype_or_device(value: Any) -> bool:
    """Whether a value is PyTorch's. Without an import: those who read runs do not need PyTorch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.dtype | torch.device)


def _redacted_mapping(values: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    return {
        _redacted_text(str(name), "", depth): _redacted(inner, naming_key(values, name), depth)
        for name, inner in values.items()
    }


def _redacted_items(items: list[Any], key: str, depth: int) -> list[Any]:
    """Redacts a sequence, which may be a pair of name and value or the words of a command."""
    if len(items) == 2 and isinstance(items[0], str) and is_secret_pair(*items):
        return [_redacted(items[0], key, depth), HIDDEN if items[1] else items[1]]
    options = [item if isinstance(item, str) and item.startswith("-") else "" for item in items]
    if any(options) and all(isinstance(item, str) for item in items):
        for secret in secrets_of_command(items):
            items = [item.replace(secret, HIDDEN) for item in items]
    names = [option.lstrip("-") for option in ["", *options]]
    return [
        _redacted(item, name if name and "=" not in name and not option else key, depth)
        for item, name, option in zip(items, names, options + [""], strict=False)
    ]


def _redacted_text(text: str, key: str, depth: int) -> str:
    if text.lstrip()[:1] in ("{", "[", '"') and depth > 0:
        try:
            return json.dumps(_redacted(json.loads(text), key, depth - 1))
        except (ValueError, RecursionError):
            pass
    text = without_url_credentials(without_known_tokens(text))
    text = without_login_credentials(without_assigned_secrets(text))
    return without_random_words(text, key)

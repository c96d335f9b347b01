"""What may be written about arguments and configurations: everything but their secrets.

Two nets, because either alone has holes: values of keys that name a secret are hidden whatever they
are, and every text is searched for what looks like a secret whatever its key.
"""

import json
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import torch

HIDDEN = "<hidden>"
# Whose text form is a value and nothing else.
_SHOWN_AS_TEXT = (str, PurePath, Enum, torch.dtype, torch.device)
# Deeper than any configuration; a structure that contains itself ends here.
_DEEPEST = 32

# Parts of a key, without separators and in lower case, after which the value is a secret.
_SECRET_PARTS = re.compile(
    r"secret|password|passwd|passphrase|credential|webhook|authorization|bearer|cookie|connectionstr"
    r"|(api|access|private|auth|signing|encryption|ssh|account|master|session)keys?"
)
# Last words of a key of which the same holds: not of `key_proj` or `num_key_value_heads`.
_SECRET_LAST_WORDS = {"key", "pwd", "auth", "sas", "dsn"}
# Words beside "token" that make it a piece of text, or a number of them.
_SPECIAL_TOKENS = frozenset(
    (
        *("pad", "eos", "bos", "unk", "sep", "cls", "mask", "special", "forced", "decoder"),
        *("image", "video", "audio", "vision", "boi", "eoi", "boa", "eoa", "start", "end", "stop"),
        *("prefix", "suffix", "prompt"),
    )
)
_COUNTING = frozenset(
    (
        *("num", "max", "min", "per", "seen", "count", "id", "ids", "index", "type", "types"),
        *("length", "len", "size"),
    )
)

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# A key and what may stand between it and its value: `key=`, `"key": "`, `Authorization: Bearer`, or
# the space after an option of a command line.
_KEY = re.compile(
    r"(?<![\w.-])([\w.-]+)(?:\\*[\"']?\s*[=:]\s*(?:(?:bearer|basic|digest)\s+)?\\*|\s+)",
    re.IGNORECASE,
)
_SUSPECT = re.compile(
    r"token|secret|passw|passphrase|pwd|credential|webhook|authorization|bearer|cookie|connection"
    r"|key|auth|sas|dsn",
    re.IGNORECASE,
)
_VALUE = re.compile(r"\"[^\"]*\"|'[^']*'|[^\s,;&\"'}\])\\]+")
# `user:password@`, or a token alone, in front of a host; the last @ before the path counts, and a
# password may hold a slash that should have been escaped.
_URL_CREDENTIALS = re.compile(
    r"(?<=://)(?:[^/\s:@]{0,256}:[^\s\"'<>]{0,1024}|[^/\s\"'<>]{1,1024})@"
)
_URL_PARAMETER = re.compile(
    r"(?<=[?&])([^=&\s]{0,64}(?:token|secret|password|key|signature|sig|auth|code)[^=&\s]{0,64})"
    r"=[^&\s\"']+",
    re.IGNORECASE,
)
# Secrets that say what they are, wherever they stand.
_KNOWN = re.compile(
    r"\b(?:(?:hf|api|r8|npm|ltai)_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_\w{20,}|xox[abeprs]-[\w-]{10,}|A[KS]IA[A-Z0-9]{12,}|AIza[\w-]{30,}"
    r"|glpat-[\w-]{16,}|pypi-[\w-]{16,}|eyJ[\w-]{8,999}\.[\w-]{8,9999}\.[\w-]{8,})"
    r"|(?<=hooks\.slack\.com/services/)[\w/]+|(?<=/api/webhooks/)[\w/-]+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
_UNBROKEN = re.compile(r"[A-Za-z0-9+]{20,}={0,2}")
# Keys whose values look random and are no secrets.
_DIGEST_KEY = re.compile(r"hash|sha\d*$|commit|revision|digest|checksum|uuid|fingerprint", re.I)


def redacted(value: Any, key: str = "") -> Any:
    """Returns a value with its secrets replaced by `<hidden>`, at any depth.

    Only numbers, text, paths, enumerations, dtypes and devices are shown, and mappings and
    sequences of them; of other objects the type. Hidden are the values of keys that name a secret,
    credentials and secret parameters in URLs, tokens of known form, assignments such as
    `password=...` inside text, and long words that look random. Text that holds JSON is read and
    redacted as JSON.

    Args:
        value: Anything.
        key: The name the value has.
    """
    return _redacted(value, key, _DEEPEST)


def redacted_text(text: str) -> str:
    """Returns a text, such as a log message, with the secrets inside it replaced."""
    return _redacted_text(text, "", _DEEPEST)


def without_url_credentials(url: str) -> str:
    """Returns a URL with `<hidden>` in the place of its credentials and secret parameters."""
    return _URL_PARAMETER.sub(rf"\1={HIDDEN}", _URL_CREDENTIALS.sub(f"{HIDDEN}@", url))


def redacted_json(values: Mapping[str, Any]) -> str:
    """Returns a mapping as indented JSON without its secrets."""
    return json.dumps(redacted(values), indent=2)


def _redacted(value: Any, key: str, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if _names_a_secret(key, value):
        return HIDDEN if value else value
    if isinstance(value, int | float):
        return value
    if depth == 0 or isinstance(value, bytes | bytearray):
        return HIDDEN
    if isinstance(value, Mapping):
        return {
            _redacted_text(str(name), "", depth - 1): _redacted(inner, str(name), depth - 1)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return _redacted_items(list(value), key, depth - 1)
    if isinstance(value, _SHOWN_AS_TEXT):
        return _redacted_text(str(value), key, depth - 1)
    # What an object says of itself may be anything.
    return f"<{type(value).__name__}>"


def _redacted_items(items: list[Any], key: str, depth: int) -> list[Any]:
    """A sequence; of the words of a command line, those after an option that names a secret."""
    options = [item if isinstance(item, str) and item.startswith("-") else "" for item in items]
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
    text = _KNOWN.sub(HIDDEN, text)
    text = _URL_CREDENTIALS.sub(f"{HIDDEN}@", text)
    text = _URL_PARAMETER.sub(rf"\1={HIDDEN}", text)
    text = _without_assigned_secrets(text)
    if not _DIGEST_KEY.search(key):
        text = _UNBROKEN.sub(lambda word: HIDDEN if _looks_random(word[0]) else word[0], text)
    return text


def _without_assigned_secrets(text: str) -> str:
    """Hides the values that keys of a text assign."""
    pieces, end = [], 0
    for found in _KEY.finditer(text):
        key = found[1]
        is_option, is_assigned = key.startswith("-"), found[0].strip() != key
        if found.start() < end or not (is_option or is_assigned) or not _SUSPECT.search(key):
            continue
        value = _VALUE.match(text, found.end())
        bare = value[0].strip("\"'") if value is not None else ""
        if value is None or (is_option and bare.startswith("-")):
            continue
        if _names_a_secret(key, int(bare) if bare.isdecimal() else bare):
            quote = value[0][:1] if bare != value[0] else ""
            pieces += [text[end : found.end()], quote, HIDDEN, quote]
            end = value.end()
    return "".join([*pieces, text[end:]])


def _names_a_secret(key: str, value: Any) -> bool:
    """Whether the value of a key is a secret, as far as its name tells."""
    words = [word.lower() for word in _WORD.findall(key)]
    if _SECRET_PARTS.search("".join(words)) or (words and words[-1] in _SECRET_LAST_WORDS):
        return True
    if not any(word.endswith(("token", "tokens")) for word in words):
        return False
    if isinstance(value, int | float):
        # Counts and ids of tokens of text; a token that is a number has more digits.
        counts = bool(_COUNTING.intersection(words)) or words[-1] == "tokens"
        return not counts and abs(value) >= 100_000
    if isinstance(value, list | tuple | set) and value:
        return any(_names_a_secret(key, item) for item in value)
    is_piece_of_text = bool(_SPECIAL_TOKENS.intersection(words))
    is_choice = bool(_COUNTING.intersection(words)) and str(value).replace("_", "").isalpha()
    return not (is_choice or (is_piece_of_text and len(str(value)) <= 40))


def _looks_random(word: str) -> bool:
    """Whether a long word changes between capitals, small letters and digits as keys do.

    Random base-62 text changes at six of ten places, random hexadecimal at nearly five, names in
    camel case with a version in them at less than four.
    """
    kinds = ["d" if c.isdigit() else "u" if c.isupper() else "l" for c in word.rstrip("=")]
    changes = sum(a != b for a, b in zip(kinds, kinds[1:], strict=False))
    return changes >= 0.4 * (len(kinds) - 1) and "d" in kinds

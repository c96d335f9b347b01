"""Decides by a name whether its value is a secret: `HF_TOKEN` is one, `pad_token` is not."""

import re
from collections.abc import Mapping
from typing import Any

# Found anywhere in a name, in lower case and without separators.
_SECRET_PARTS = re.compile(
    r"secret|passphrase|passcode|passwor|passwd|credential|webhook|authorization|bearer|cookie"
    r"|connectionstr|sessionid|sessid|seedphrase|mnemonic|recovery(?:code|phrase)"
    r"|(?:api|access|private|auth|signing|encryption|ssh|account|master|session|license|storage)keys?"
)
# Found as a whole word anywhere in a name.
_SECRET_WORDS = frozenset(("creds", "jwt", "otp", "totp", "sas", "pswd"))
# Found as the last word of a name only, because of `pin_memory`, `key_proj` and `auth_method`.
_SECRET_LAST_WORD = re.compile(
    r"auth|dsn|cred|pat|pin|(?:db|user|root|admin|smtp|ftp|mail|ssh|sql|mysql|pg|redis|mongo|proxy)?"
    r"(?:pass|pwd|psw|pw)"
)
# Words before "pass" that show that it is not a password, as in `forward_pass`.
_PASSES = frozenset(("forward", "backward", "first", "second", "single", "multi", "low", "high"))
# Words before "key" that show that it names a column or an entry, as in `text_key`.
_COLUMNS = frozenset(
    (
        *("text", "label", "labels", "input", "inputs", "output", "image", "audio", "video"),
        *("prompt", "response", "query", "question", "answer", "chosen", "rejected", "caption"),
        *("content", "message", "messages", "conversation", "role", "source", "target", "column"),
        *("feature", "metric", "sort", "group", "index", "id", "data", "dataset", "batch", "score"),
        *("primary", "foreign", "partition", "registry", "state", "dict", "parameter", "mask"),
    )
)
# Words in a name with "token" that show that it is a piece of text, as in `pad_token`.
_SPECIAL_TOKENS = frozenset(
    (
        *("pad", "eos", "bos", "unk", "sep", "cls", "mask", "special", "forced", "decoder"),
        *("image", "video", "audio", "vision", "boi", "eoi", "boa", "eoa", "start", "end", "stop"),
        *("prefix", "suffix", "prompt"),
    )
)
# Words in a name with "token" that show that it is a number or an id, as in `max_new_tokens`.
_COUNTING = frozenset(
    (
        *("num", "max", "min", "per", "seen", "count", "id", "ids", "index", "type", "types"),
        *("length", "len", "size"),
    )
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_PLAIN_NAME = re.compile(r"[a-z]+(?:[_./ -][a-z]+)*(?:[_.-]?\d{1,2})?")
# Groups of at least four capitals and digits, unlike `apache-2.0` and `CC-BY-NC-SA-4.0`.
_LICENSE_KEY = re.compile(r"(?:[A-Z0-9]{4,}[- ]){2,}[A-Z0-9]{4,}")
# A value that is hidden under every name whose value can be hidden.
_SECRET_OF_ANY_KIND = "-".join(["AB12"] * 12)
# A smaller number is never a secret, because even a PIN has four digits.
_LEAST_PIN = 1000
# A smaller number has too few digits for a key or a token.
_LEAST_KEY = 100_000


def words_of(name: str) -> list[str]:
    """Returns the words of a name in lower case.

    Example:
        >>> words_of("hubToken_v2")
        ['hub', 'token', 'v', '2']
    """
    return [word.lower() for word in _WORD.findall(name)]


def is_plain_name(value: Any) -> bool:
    """Whether a value is a name in lower case, such as that of a column, or several of them."""
    if isinstance(value, Mapping):
        return all(map(is_plain_name, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(is_plain_name, value))
    if isinstance(value, int | float):
        return abs(value) < _LEAST_KEY
    return isinstance(value, str) and len(value) <= 64 and bool(_PLAIN_NAME.fullmatch(value))


def always_names_a_secret(key: str) -> bool:
    """Whether a key names a secret whatever its value is."""
    words = words_of(key)
    return bool(_SECRET_PARTS.search("".join(words)) or _SECRET_WORDS.intersection(words))


def may_name_a_secret(key: str) -> bool:
    """Whether a key names a secret for some values."""
    return names_a_secret(key, _SECRET_OF_ANY_KIND)


def names_a_secret(key: str, value: Any) -> bool:
    """Whether the name of a value says that it is a secret.

    Args:
        key: The name of a field, an option, an environment variable or the like.
        value: The value. Some names name a secret for some values only: `max_tokens` is not a
            secret if the value is a number.
    """
    if isinstance(value, int | float) and abs(value) < _LEAST_PIN:
        return False
    if always_names_a_secret(key):
        return True
    words = words_of(key)
    if not words:
        return False
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last == "key":
        return not (before in _COLUMNS and is_plain_name(value))
    if last == "keys":
        return not is_plain_name(value)
    if last in ("license", "licence"):
        return isinstance(value, str) and bool(_LICENSE_KEY.search(value))
    if _SECRET_LAST_WORD.fullmatch(last):
        is_count = last == "pass" and isinstance(value, int | float) and is_plain_name(value)
        return not (before in _PASSES or is_count)
    return any(word.endswith(("token", "tokens")) for word in words) and _is_token(words, value)


def _is_token(words: list[str], value: Any) -> bool:
    """Whether the value of a name with the word "token" is a secret, and not a piece of text."""
    is_piece_of_text = bool(_SPECIAL_TOKENS.intersection(words))
    counts = bool(_COUNTING.intersection(words))
    is_last = words[-1].endswith("token")
    if isinstance(value, int | float):
        # A small number is the id of a piece of text, or a number of them.
        return is_last and not counts and not is_piece_of_text and abs(value) >= _LEAST_KEY
    if isinstance(value, Mapping):
        return is_last or words[-1].endswith("tokens")
    if isinstance(value, list | tuple | set) and value:
        return any(_is_token(words, item) for item in value)
    is_choice = counts and str(value).replace("_", "").isalpha()
    return not (is_choice or (is_piece_of_text and len(str(value)) <= 40))

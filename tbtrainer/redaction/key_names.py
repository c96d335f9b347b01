"""Names whose values are secrets: `db_password`, `HF_TOKEN`, but not `pad_token` or `text_key`."""

import re
from collections.abc import Mapping
from typing import Any

# Parts of a name, without separators and in lower case.
_SECRET_PARTS = re.compile(
    r"secret|passphrase|passcode|passwor|passwd|credential|webhook|authorization|bearer|cookie"
    r"|connectionstr|sessionid|sessid|seedphrase|mnemonic|recovery(?:code|phrase)"
    r"|(?:api|access|private|auth|signing|encryption|ssh|account|master|session|license|storage)keys?"
)
# Words of a name, wherever they stand in it.
_SECRET_WORDS = frozenset(("creds", "jwt", "otp", "totp", "sas", "pswd"))
# Last words of a name: not of `pin_memory`, `key_proj` or `auth_method`.
_SECRET_LAST_WORD = re.compile(
    r"auth|dsn|cred|pat|pin|(?:db|user|root|admin|smtp|ftp|mail|ssh|sql|mysql|pg|redis|mongo|proxy)?"
    r"(?:pass|pwd|psw|pw)"
)
# Words before "pass" that make it a pass over something.
_PASSES = frozenset(("forward", "backward", "first", "second", "single", "multi", "low", "high"))
# Words before "key" that make it the name of a column or an entry.
_COLUMNS = frozenset(
    (
        *("text", "label", "labels", "input", "inputs", "output", "image", "audio", "video"),
        *("prompt", "response", "query", "question", "answer", "chosen", "rejected", "caption"),
        *("content", "message", "messages", "conversation", "role", "source", "target", "column"),
        *("feature", "metric", "sort", "group", "index", "id", "data", "dataset", "batch", "score"),
        *("primary", "foreign", "partition", "registry", "state", "dict", "parameter", "mask"),
    )
)
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
_PLAIN_NAME = re.compile(r"[a-z]+(?:[_./ -][a-z]+)*(?:[_.-]?\d{1,2})?")
# Groups of capitals and digits: not `apache-2.0`, not `CC-BY-NC-SA-4.0`.
_LICENSE_KEY = re.compile(r"(?:[A-Z0-9]{4,}[- ]){2,}[A-Z0-9]{4,}")
# No plain name, no piece of text, and a key of a license.
_SECRET_OF_ANY_KIND = "-".join(["AB12"] * 12)
# A number below is a count or an index, whatever it is called: even a PIN has four digits.
_LEAST_PIN = 1000
# A number below has too few digits for a key or a token.
_LEAST_KEY = 100_000


def words_of(name: str) -> list[str]:
    """Returns the words of a name in lower case.

    Example:
        >>> words_of("hubToken_v2")
        ['hub', 'token', 'v', '2']
    """
    return [word.lower() for word in _WORD.findall(name)]


def is_plain_name(value: Any) -> bool:
    """Whether a value is a word in small letters, such as the name of a column, or many of them."""
    if isinstance(value, Mapping):
        return all(map(is_plain_name, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(is_plain_name, value))
    if isinstance(value, int | float):
        return abs(value) < _LEAST_KEY
    return isinstance(value, str) and len(value) <= 64 and bool(_PLAIN_NAME.fullmatch(value))


def always_names_a_secret(key: str) -> bool:
    """Whether the value of a key is a secret whatever it is."""
    words = words_of(key)
    return bool(_SECRET_PARTS.search("".join(words)) or _SECRET_WORDS.intersection(words))


def may_name_a_secret(key: str) -> bool:
    """Whether a value of the key could be a secret: for most keys none is."""
    return names_a_secret(key, _SECRET_OF_ANY_KIND)


def names_a_secret(key: str, value: Any) -> bool:
    """Whether the value of a key is a secret, as far as its name tells.

    Args:
        key: A name, such as that of a field, an option or an environment variable.
        value: What it names: `max_tokens` is no secret if it is a number.
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
    """Whether what a name with the word "token" names is a secret, and no piece of text."""
    is_piece_of_text = bool(_SPECIAL_TOKENS.intersection(words))
    counts = bool(_COUNTING.intersection(words))
    is_last = words[-1].endswith("token")
    if isinstance(value, int | float):
        # The number of a piece of text, or of many; a token that is a number has more digits.
        return is_last and not counts and not is_piece_of_text and abs(value) >= _LEAST_KEY
    if isinstance(value, Mapping):
        return is_last or words[-1].endswith("tokens")
    if isinstance(value, list | tuple | set) and value:
        return any(_is_token(words, item) for item in value)
    is_choice = counts and str(value).replace("_", "").isalpha()
    return not (is_choice or (is_piece_of_text and len(str(value)) <= 40))

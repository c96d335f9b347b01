"""Hides secrets that are recognised without a key: tokens of known form and random words."""

import re

from tbtrainer.redaction.key_names import words_of

HIDDEN = "<hidden>"

# Forms that services document for their tokens.
_KNOWN_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:hf|api|r8|npm|gsk|xai|rpa|ntn|lin_api)_[A-Za-z0-9]{16,}|(?:dckr_pat|lsv2_[ps]t)_[\w-]{16,}"
    r"|wandb_v\d_\w{16,}|(?:LTAI|ltai_)[A-Za-z0-9]{12,}|KGAT_[A-Za-z0-9]{16,}"
    r"|sk-(?:proj|ant|or|svcacct|admin|lf)-[\w-]{16,}|sk-[A-Za-z0-9]{16,}"
    r"|(?:nvapi|pplx|tskey|PMAK|pul|sntry[su])-[\w-]{16,}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|gl(?:pat|ptt|dt|rt|soat|cbt)-[\w-]{16,}"
    r"|pypi-[\w-]{16,}|A[KS]IA[A-Z0-9]{12,}|AIza[\w-]{30,}|GOCSPX-[\w-]{20,}|ya29\.[\w-]{20,}"
    r"|[\w~.]{3}\dQ~[\w~.-]{31,34}|do[opr]_v1_[0-9a-f]{32,}|dapi[0-9a-f]{32}(?:-\d)?"
    r"|xox[abeprs]-[\w-]{10,}|xapp-\d-[\w-]{20,}|(?:bot)?\d{8,10}:AA[\w-]{32,}"
    r"|[rs]k_(?:live|test)_[A-Za-z0-9]{10,}|SG\.[\w-]{16,}\.[\w-]{16,}|glsa_[A-Za-z0-9]{32}_\w{8}"
    r"|hv[bs]\.[\w-]{20,}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|ATATT3[\w=-]{30,}|figd_[\w-]{20,}"
    r"|AGE-SECRET-KEY-1[A-Z0-9]{20,}|eyJ[\w-]{16,}(?:\.[\w-]*){0,4}"
    r")"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
# URLs whose path is the secret.
_WEBHOOK = re.compile(
    r"(hooks\.slack\.com/(?:services|workflows|triggers)/|/api/webhooks/|\.webhook\.office\.com/"
    r"|api\.telegram\.org/(?:file/)?bot|hooks\.zapier\.com/hooks/catch/|/bot/v2/hook/"
    r"|maker\.ifttt\.com/trigger/)[^\s\"'<>?#]+"
)
_SCHEME = re.compile(r"\b(Bearer|Basic|Token)(\s+)(?=[\w+/=.~-]*\d)[\w+/=.~-]{16,}")

_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{32,}={0,2}")
_UNBROKEN = re.compile(r"[A-Za-z0-9]{16,}={0,2}")
_HEXADECIMAL = re.compile(r"[0-9a-f]{20,}|[0-9A-F]{20,}")
_LONG_HEXADECIMAL = re.compile(r"(?<![A-Za-z0-9])(?:[0-9a-f]{12,}|[0-9A-F]{12,})(?![A-Za-z0-9])")
_BASE32 = re.compile(r"[A-Z2-7]{16,}")
_DIGITS = re.compile(r"\d+")
# Pieces of names that people write: words, abbreviations in capitals, numbers, separators.
_SEGMENT = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[+/_=-]")
# Words in the names of values that look random but are not secret.
_DIGESTS = frozenset(
    (
        *("hash", "hashes", "sha", "md", "commit", "revision", "digest", "checksum", "etag"),
        *("uuid", "guid", "fingerprint"),
    )
)
# Words in the names of hexadecimal ids, such as those of git, MLflow, ClearML and Optuna.
_IDS = frozenset(
    (
        *("id", "ids", "uid", "git", "rev", "ref", "version", "run", "trial", "task", "job"),
        *("experiment", "parent", "snapshot", "snapshots", "blob", "blobs", "tree", "branch"),
        *("build", "cache", "checkpoint"),
    )
)


def without_known_tokens(text: str) -> str:
    """Hides tokens of known form, webhooks, and what follows `Bearer` or `Basic`."""
    text = _WEBHOOK.sub(rf"\1{HIDDEN}", text)
    text = _KNOWN_TOKEN.sub(HIDDEN, text)
    return _SCHEME.sub(rf"\1\2{HIDDEN}", text)


def without_random_words(text: str, key: str) -> str:
    """Hides long words that look random.

    A commit and a token of hexadecimal digits look alike. So such digits are shown if the key or
    the words before them call them a digest or an id, and in paths. Otherwise they are hidden.

    Args:
        text: Any text.
        key: The name of the text, such as the key of a mapping.
    """
    key_words = set(words_of(key))
    if key_words & _DIGESTS:
        return text
    text = _ENCODED.sub(_hidden_if_encoded, text)

    def without_random(found: re.Match[str]) -> str:
        word = found[0].rstrip("=")
        if _HEXADECIMAL.fullmatch(word):
            is_named = bool(key_words & _IDS) or _is_explained(text, found.start(), found.end())
            return found[0] if is_named or not _mixes_digits(word) else HIDDEN
        return HIDDEN if _looks_random(word) else found[0]

    return _UNBROKEN.sub(without_random, text)


def _hidden_if_encoded(found: re.Match[str]) -> str:
    """Hides a run of characters if it, or a part of it between slashes, looks like base 64."""
    if _looks_encoded(found[0].rstrip("=")):
        return HIDDEN
    return "/".join(HIDDEN if _looks_encoded(part) else part for part in found[0].split("/"))


def _looks_encoded(run: str) -> bool:
    """Whether a text looks like base 64: short segments and few separators."""
    return (
        len(run) >= 32
        and sum(map(run.count, "+/_-")) <= len(run) / 8
        and len(run) / len(_SEGMENT.findall(run)) <= 2.5
        and run.lower() != run
        and run.upper() != run
        and not _LONG_HEXADECIMAL.search(run)
    )


def _looks_random(word: str) -> bool:
    """Whether a word looks like a random key: its letters and digits form short segments.

    The limits separate random texts from the 16,000 longest words in the sources of transformers,
    trl, torch and datasets. docs/secrets.md has the measured rates.
    """
    segments = len(_SEGMENT.findall(word))
    if word.lower() != word and word.upper() != word:
        return len(word) >= 20 and len(word) / segments <= (2.8 if len(word) >= 26 else 2.6)
    numbers = _DIGITS.findall(word)
    if _BASE32.fullmatch(word):
        return len(numbers) >= 2
    letters = sum(map(str.isalpha, word))
    return len(word) >= 24 and len(numbers) >= 3 and letters >= 8 and len(word) / segments <= 6


def _mixes_digits(word: str) -> bool:
    """Whether letters and digits alternate at least twice."""
    return not word.isdecimal() and len(_SEGMENT.findall(word)) >= 3


def _is_explained(text: str, start: int, end: int) -> bool:
    """Whether hexadecimal digits are in a path, or follow a word such as "commit"."""
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    if (before and before in "/\\@#") or (after and after in "/\\"):
        return True
    return bool((_DIGESTS | _IDS).intersection(words_of(text[max(0, start - 32) : start])[-2:]))

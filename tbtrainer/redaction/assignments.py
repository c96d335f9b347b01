"""Hides secrets that a text assigns to a name: `password=...`, command lines, markup, pairs."""

import re
from collections.abc import Callable, Iterable

from tbtrainer.redaction.key_names import (
    always_names_a_secret,
    is_plain_name,
    may_name_a_secret,
    names_a_secret,
)
from tbtrainer.redaction.tokens import HIDDEN

# A key and the separator before its value: `key=`, `"key": "`, `Authorization: Bearer`, or the
# space after an option of a command line.
_KEY = re.compile(
    r"(?<![\w.-])([\w.-]+)(?:\\*[\"']?\s*(?::=|[=-]>|==|[=:])\s*(?:(?:bearer|basic|digest|token)\s+)?\\*|\s+)",
    re.IGNORECASE,
)
# `name: DB_PASSWORD, value: `, as in configurations of Kubernetes.
_NAMED = re.compile(
    r"(?<![\w.-])(?:name|key|variable|var|field|env|header|option)\\*[\"']?\s{0,8}[=:]\s{0,8}\\*[\"']?"
    r"([\w.-]{1,128})\\*[\"']?[\s,;}{-]{1,64}\\*[\"']?(?:value|val|content|data|default)\\*[\"']?"
    r"\s{0,8}[=:]\s{0,8}\\*",
    re.IGNORECASE,
)
# `('password', 'x')`, as Python prints pairs.
_PAIR = re.compile(
    r"[(\[]\s{0,8}([\"'])([\w.-]{1,128})\1\s{0,8},\s{0,8}"
    r"(?=(?:\"[^\"\n]{0,512}\"|'[^'\n]{0,512}')\s{0,8}[)\]])"
)
# Without quotes. A comma, a semicolon or `&` belongs to it, unless a space or another name follows.
_WORD = r"[\"']?(?:[^\s,;&\"'}\])\\]|[,;&](?=[^\s,;&\"'}\])\\])(?![\w.-]{1,64}\s?[=:]))+"
_VALUE = re.compile(r"\"[^\"\\]*(?:\\.[^\"\\]*)*\"|'[^'\\]*(?:\\.[^'\\]*)*'|" + _WORD, re.DOTALL)
# A value inside a quoted text, where its closing quote is escaped by a backslash.
_ESCAPED_VALUE = re.compile(r"\"[^\"]*\"|'[^']*'|" + _WORD)
_NO_SECRETS = frozenset(("", "true", "false", "none", "null"))
# Names whose values may have several words.
_PHRASE_NAME = re.compile(r"phrase|mnemonic|cookie", re.IGNORECASE)
_PHRASE = re.compile(r"[^\n,\"'}\])]+")

_ELEMENT = re.compile(r"<([\w.:-]{1,64})(\s[^<>]{0,256})?>([^<>]{1,2048})(?=</)")
# Options of programs whose names do not say that they take a password. They are found in a command
# line and in a printed list of words; `_` stands for the separator of words. Group 1 is shown, and
# group 2 is hidden.
_COMMANDS = [
    re.compile(pattern.replace("_", r"[ \t\"',]{1,4}"))
    for pattern in (
        r"((?<![^\s\"',])(?:-u|-U|--user|--proxy-user)(?:_|=)?)"
        r"(?!\d+:\d+(?!\S))([^\s:\"'=,-][^\s:\"'=,]{0,128}:(?!//)[^\s\"']{1,256})",
        r"(\b(?:mysql|mariadb)[\w-]{0,16}_(?:[^\n|;&]{0,200}_)?-p)([^\s\"',]{1,256})",
        r"(\bsshpass_-p_?)([^\s\"',]{1,256})",
        r"(\b(?:docker|podman|helm|az)_login\b[^\n|;&]{0,200}?_-p_?)([^\s\"',]{1,256})",
        r"(\bredis-cli\b[^\n|;&]{0,200}?_-a_?)([^\s\"',]{1,256})",
        r"(\bwandb_login_(?:--?[a-z=-]{1,32}_){0,4})([\w-]{20,256})",
    )
]


def without_assigned_secrets(text: str) -> str:
    """Hides the values in a text whose names say that they are secret."""
    text = _ELEMENT.sub(_hidden_element, text)
    for pattern in _COMMANDS:
        text = pattern.sub(rf"\1{HIDDEN}", text)
    text = _without_values(text, _NAMED, _is_named_secret)
    text = _without_values(text, _PAIR, is_secret_pair)
    return _without_values(text, _KEY, _is_assigned_secret)


def secrets_of_command(words: Iterable[str]) -> list[str]:
    """Returns the passwords that a command line, given as words, passes to programs."""
    line = " ".join(words)
    return [found[2] for pattern in _COMMANDS for found in pattern.finditer(line)]


def is_secret_pair(name: str, value: object) -> bool:
    """Whether a pair is the name of a secret and the secret, and not two names of columns."""
    return names_a_secret(name, value) and (always_names_a_secret(name) or not is_plain_name(value))


def _hidden_element(found: re.Match[str]) -> str:
    tag, attributes, value = found.groups(default="")
    return f"<{tag}{attributes}>{HIDDEN}" if names_a_secret(tag, value) else found[0]


def _without_values(
    text: str, pattern: re.Pattern[str], is_secret: Callable[[str, str], bool]
) -> str:
    """Hides the values after matches of a pattern, whose last group is a name, if secret."""
    pieces, end = [], 0
    for found in pattern.finditer(text):
        name = found[pattern.groups]
        is_option, is_assigned = name.startswith("-"), found[0].strip() != name
        # Before the value is searched, because that search may read to the end of the text.
        if found.start() < end or not (is_option or is_assigned) or not may_name_a_secret(name):
            continue
        value = (_ESCAPED_VALUE if found[0].endswith("\\") else _VALUE).match(text, found.end())
        bare = value[0].strip("\"'") if value is not None else ""
        if value is None or bare.lower() in _NO_SECRETS or not is_secret(name, bare):
            continue
        if bare == value[0] and _PHRASE_NAME.search(name):
            value = _PHRASE.match(text, found.end()) or value
        quote = value[0][:1] if value[0][:1] in "\"'" else ""
        pieces += [text[end : found.end()], quote, HIDDEN, quote]
        end = value.end()
    return "".join([*pieces, text[end:]])


def _is_named_secret(name: str, value: str) -> bool:
    return names_a_secret(name, int(value) if value.isdecimal() and len(value) < 32 else value)


def _is_assigned_secret(name: str, value: str) -> bool:
    # A word with a hyphen after an option is the next option, not a value.
    return not (name.startswith("-") and value.startswith("-")) and _is_named_secret(name, value)

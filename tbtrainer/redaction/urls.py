"""Hides credentials in URLs, and before hosts without a scheme, as in `user:password@host`."""

import re

from tbtrainer.redaction.tokens import HIDDEN

# `user:password@`, or a token alone, before a host. The last @ before the path ends it. A password
# may contain a slash. It may contain unescaped spaces, unless what follows the colon may be a port.
_CREDENTIALS = re.compile(
    r"(?<=://)(?:[^/\s:@]{0,256}:(?!\d{1,5}(?!\w))[^/\s\"'<>]{0,256}(?: [^/\s\"'<>]{1,256}){1,4}"
    r"|[^/\s:@]{0,256}:[^\s\"'<>]{0,1024}|[^/\s\"'<>]{1,1024})@"
)
_PARAMETER = re.compile(
    r"(?<=[?&#])([^=&#\s]{0,64}(?:token|secret|pass|pwd|key|signature|sig|auth|code|credential|jwt)"
    r"[^=&#\s]{0,64})=[^&#\s\"'<>]+",
    re.IGNORECASE,
)
_WITHOUT_SCHEME = re.compile(
    r"(?<![\w./@:+-])([A-Za-z][\w.+-]{0,63}):[^\s\"'<>/:,;()\[\]{}|]{1,128}@"
    r"([A-Za-z][\w-]{0,62}|\d{1,3}(?:[.-]\d{1,3}){3})"
)
_NO_USERS = frozenset(("mailto", "email", "contact", "author", "from", "to", "cc", "by", "ssh"))
_DIGEST_NAMES = re.compile(r"sha\d+|md5", re.IGNORECASE)


def without_url_credentials(url: str) -> str:
    """Returns a URL with its credentials and secret parameters replaced by `<hidden>`."""
    return _PARAMETER.sub(rf"\1={HIDDEN}", _CREDENTIALS.sub(f"{HIDDEN}@", url))


def without_login_credentials(text: str) -> str:
    """Hides the `user:password` of `user:password@host`."""
    return _WITHOUT_SCHEME.sub(_hidden_login, text)


def _hidden_login(found: re.Match[str]) -> str:
    user, host = found[1], found[2]
    # Not a login: an e-mail address after a label, or a container image with its digest.
    if user.lower() in _NO_USERS or _DIGEST_NAMES.fullmatch(host):
        return found[0]
    return f"{HIDDEN}@{host}"

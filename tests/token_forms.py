"""Random tokens of the forms that services give out, and random text without any form."""

import base64
import json
import string
from collections.abc import Callable
from random import Random
from uuid import UUID

LETTERS_AND_DIGITS = string.ascii_letters + string.digits
URL_SAFE = LETTERS_AND_DIGITS + "-_"
BASE64 = LETTERS_AND_DIGITS + "+/"
BASE32 = string.ascii_uppercase + "234567"
HEXADECIMAL = "0123456789abcdef"


def _text(random: Random, alphabet: str, length: int) -> str:
    return "".join(random.choices(alphabet, k=length))


def _form(prefix: str, alphabet: str, length: int, suffix: str = "") -> Callable[[Random], str]:
    return lambda random: f"{prefix}{_text(random, alphabet, length)}{suffix}"


def _json_web_token(random: Random) -> str:
    parts = [{"alg": "HS256", "typ": "JWT"}, {"sub": _text(random, string.digits, 10)}]
    encoded = [base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts]
    return ".".join([*encoded, _text(random, URL_SAFE, 43)])


def _telegram_bot_token(random: Random) -> str:
    return f"{random.randrange(10**8, 10**10)}:AA{_text(random, URL_SAFE, 33)}"


def _teams_webhook(random: Random) -> str:
    ids = [str(UUID(int=random.getrandbits(128), version=4)) for _ in range(3)]
    path = f"{ids[0]}@{ids[1]}/IncomingWebhook/{_text(random, HEXADECIMAL, 32)}/{ids[2]}"
    return f"https://firm.webhook.office.com/webhookb2/{path}"


# Tokens that say what they are, by a prefix or by their parts.
KNOWN_FORMS: dict[str, Callable[[Random], str]] = {
    "Hugging Face": _form("hf_", string.ascii_letters, 34),
    "Weights & Biases, new": _form("wandb_v1_", LETTERS_AND_DIGITS, 77),
    "OpenAI": _form("sk-proj-", URL_SAFE, 48),
    "Anthropic": _form("sk-ant-api03-", URL_SAFE, 93, "AA"),
    "Groq": _form("gsk_", LETTERS_AND_DIGITS, 52),
    "NVIDIA": _form("nvapi-", URL_SAFE, 64),
    "Replicate": _form("r8_", LETTERS_AND_DIGITS, 37),
    "GitHub": _form("ghp_", LETTERS_AND_DIGITS, 36),
    "GitHub, fine-grained": _form("github_pat_", LETTERS_AND_DIGITS + "_", 82),
    "GitLab": _form("glpat-", URL_SAFE, 20),
    "PyPI": _form("pypi-AgEIcHlwaS5vcmc", URL_SAFE, 140),
    "npm": _form("npm_", LETTERS_AND_DIGITS, 36),
    "Docker Hub": _form("dckr_pat_", URL_SAFE, 27),
    "AWS key id": _form("AKIA", BASE32, 16),
    "Google API": _form("AIza", URL_SAFE, 35),
    "Google OAuth client": _form("GOCSPX-", URL_SAFE, 28),
    "Google OAuth access": _form("ya29.", URL_SAFE, 120),
    "Azure AD client": lambda r: f"{_text(r, URL_SAFE, 3)}8Q~{_text(r, URL_SAFE, 34)}",
    "Databricks": _form("dapi", HEXADECIMAL, 32),
    "DigitalOcean": _form("dop_v1_", HEXADECIMAL, 64),
    "Slack bot": lambda r: f"xoxb-{_text(r, string.digits, 12)}-{_text(r, LETTERS_AND_DIGITS, 24)}",
    "Slack app": lambda r: (
        f"xapp-1-A{_text(r, BASE32, 10)}-{_text(r, string.digits, 13)}-{_text(r, HEXADECIMAL, 64)}"
    ),
    "Telegram": _telegram_bot_token,
    "Teams webhook": _teams_webhook,
    "Slack webhook": _form("https://hooks.slack.com/services/T0/B0/", LETTERS_AND_DIGITS, 24),
    "Discord webhook": _form("https://discord.com/api/webhooks/1/", URL_SAFE, 68),
    "Stripe": _form("sk_live_", LETTERS_AND_DIGITS, 24),
    "SendGrid": lambda r: f"SG.{_text(r, URL_SAFE, 22)}.{_text(r, URL_SAFE, 43)}",
    "Grafana": _form("glsa_", LETTERS_AND_DIGITS, 32, "_0f1e2d3c"),
    "Vault": _form("hvs.", URL_SAFE, 90),
    "JSON web token": _json_web_token,
}

# Text that could be anything.
RANDOM_FORMS: dict[str, Callable[[Random], str]] = {
    "base 62, 20 characters": _form("", LETTERS_AND_DIGITS, 20),
    "base 62, 32 characters": _form("", LETTERS_AND_DIGITS, 32),
    "base 64, 40 characters (AWS secret)": _form("", BASE64, 40),
    "base 64, 88 characters (Azure storage)": _form("", BASE64, 86, "=="),
    "base 64 for URLs, 43 characters": _form("", URL_SAFE, 43),
    "base 36, 25 characters": _form("", string.ascii_lowercase + string.digits, 25),
    "base 32, 16 characters": _form("", BASE32, 16),
    "base 32, 32 characters": _form("", BASE32, 32),
    "base 32, small, 52 characters": _form("", BASE32.lower(), 52),
    "hexadecimal, 32 digits": _form("", HEXADECIMAL, 32),
    "hexadecimal, 40 digits (Weights & Biases)": _form("", HEXADECIMAL, 40),
    "hexadecimal, 64 digits": _form("", HEXADECIMAL, 64),
    "UUID": lambda random: str(UUID(int=random.getrandbits(128), version=4)),
    "12 letters and digits": _form("", LETTERS_AND_DIGITS, 12),
}


def tokens(form: Callable[[Random], str], count: int = 300) -> list[str]:
    """Returns random tokens of a form, the same at every call."""
    random = Random(0)
    return [form(random) for _ in range(count)]

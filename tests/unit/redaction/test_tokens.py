"""How many tokens of each form are hidden, and that a long text costs no more than its length."""

import time

import pytest

from tbtrainer.redaction import redacted, redacted_text
from tests.token_forms import KNOWN_FORMS, RANDOM_FORMS, tokens

# The least share that docs/secrets.md states, in percent.
RATES = {
    "base 62, 20 characters": 94,
    "base 32, 16 characters": 75,
    "base 32, 32 characters": 95,
    "base 36, 25 characters": 95,
    "base 32, small, 52 characters": 95,
    "UUID": 0,
    "12 letters and digits": 0,
}


def is_hidden(token: str) -> bool:
    """Whether no eight characters of the token's second half are shown."""
    shown = str(redacted({"note": f"value {token}"}))
    secret = token[len(token) // 2 :]
    return not any(secret[at : at + 8] in shown for at in range(len(secret) - 7))


@pytest.mark.parametrize("name", KNOWN_FORMS)
def test_every_token_of_a_known_form_is_hidden(name: str) -> None:
    assert [token for token in tokens(KNOWN_FORMS[name]) if not is_hidden(token)] == []


@pytest.mark.parametrize("name", RANDOM_FORMS)
def test_random_text_is_hidden_as_often_as_documented(name: str) -> None:
    hidden = sum(map(is_hidden, tokens(RANDOM_FORMS[name])))
    assert hidden >= 3 * RATES.get(name, 98)


def test_an_identifier_of_a_program_is_shown() -> None:
    names = [
        *("AutoModelForSeq2SeqLM", "Qwen3OmniMoeTalkerResizeMLP", "Sam3LiteTextDetrEncoderLayer"),
        *("Wav2Vec2ConformerBaseModelOutput", "GotOcr2CausalLMOutputWithPast"),
        *("sk-learn-logistic-regression-v1", "per_device_train_batch_size", "hf_deepspeed_config"),
    ]
    assert redacted(names) == names


@pytest.mark.parametrize(
    "piece",
    [
        *("token", "key=", "a:b@", "://a:", "--token ", "x", '{"a":', "aB3", "?a=", "name:"),
        *("mysql -p", "wandb login --a ", "<key>", "name: A ", "('password', ", "0a", "://a: b"),
        *("Bearer ", "key='", "seed_phrase: a ", "user:a@", "docker login ", "/aB3", "eyJ", " "),
    ],
)
def test_a_long_text_takes_no_long_time(piece: str) -> None:
    # Quadratic time would take minutes.
    began = time.process_time()
    redacted_text(piece * (200_000 // len(piece)))
    assert time.process_time() - began < 20

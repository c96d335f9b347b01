"""No secret of an argument, a configuration or a URL gets through, and little else is hidden."""

import json

import pytest

from tbtrainer.run import redacted, redacted_json

SECRET = "MARKER7f3a9c"


@pytest.mark.parametrize(
    "key",
    [
        "hub_token",
        "push_to_hub_token",
        "api_key",
        "AWS_SECRET_ACCESS_KEY",
        "password",
        "db_passwd",
        "client_secret",
        "credentials",
        "slack_webhook_url",
        "Authorization",
        "wandb_api_key",
        "key",
        "private_key",
        "cookie",
        "access_token",
    ],
)
def test_the_value_of_a_key_that_names_a_secret_is_hidden(key):
    assert SECRET not in redacted_json({key: SECRET})
    assert SECRET not in redacted_json({"deep": [{"er": {key: {"inside": SECRET}}}]})


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{SECRET}@host/path",
        f"postgres://{SECRET}@host",
        f"https://host/path?token={SECRET}&page=2",
        f"https://host/path?X-Amz-Signature={SECRET}",
        f"hf_{SECRET}abcdefgh12345678",
        f"failed with password={SECRET}",
        f"Authorization: Bearer {SECRET}",
        json.dumps({"config": {"api_key": SECRET}}),
    ],
)
def test_a_secret_inside_a_text_is_hidden(text):
    assert SECRET not in redacted_json({"note": text})
    assert SECRET not in str(redacted([text]))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", 1e-4),
        ("include_num_input_tokens_seen", "all"),
        ("pad_token_id", 0),
        ("max_new_tokens", 128),
        ("tokenizer_class", "BertTokenizer"),
        ("output_dir", "/data/run"),
        ("keys_to_ignore_at_inference", ["past_key_values"]),
        ("num_key_value_heads", 8),
        ("hub_token", None),
        ("url", "https://huggingface.co/models?page=2"),
    ],
)
def test_what_is_no_secret_is_shown(key, value):
    assert redacted({key: value}) == {key: value}

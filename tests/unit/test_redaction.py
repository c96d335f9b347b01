"""No secret of an argument, a configuration or a URL gets through, and little else is hidden."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tbtrainer.redaction import redacted, redacted_json, redacted_text
from tbtrainer.run import RunWriter
from tests.events import event_files

SECRET = "MARKER7f3a9c"
SECRET_KEYS = [
    "hub_token",
    "push_to_hub_token",
    "admin_token",
    "experiment_token",
    "super_secret_token",
    "new_hub_token",
    "hubToken",
    "authtoken",
    "tokens",
    "api_key",
    "apiKeys",
    "AWS_SECRET_ACCESS_KEY",
    "password",
    "db_passwd",
    "PWD",
    "client_secret",
    "credentials",
    "slack_webhook_url",
    "Authorization",
    "proxy-authorization",
    "wandb_api_key",
    "key",
    "hf.key",
    "private_key",
    "cookie",
    "access_token",
    "connection_string",
]


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_the_value_of_a_key_that_names_a_secret_is_hidden(key):
    assert SECRET not in redacted_json({key: SECRET})
    assert SECRET not in redacted_json({"deep": [{"er": {key: {"inside": SECRET}}}]})
    assert SECRET not in redacted_json({key: [SECRET, {"inside": SECRET}]})
    assert SECRET not in redacted_json({"config": json.dumps({"nested": {key: SECRET}})})


@pytest.mark.parametrize("key", ["password", "api_key", "hub_token", "secret"])
def test_a_secret_that_is_a_number_is_hidden(key):
    assert "123456789" not in redacted_json({key: 123456789})


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{SECRET}@host/path",
        f"https://user:p@{SECRET}@host/path",
        f"https://user:p/{SECRET}@host/path",
        f"postgres://{SECRET}@host",
        f"s3://id:{SECRET}@bucket/run",
        f"https://host/path?token={SECRET}&page=2",
        f"https://host/path?X-Amz-Signature={SECRET}",
        f"https://hooks.slack.com/services/T0/B0/{SECRET}",
        f"https://discord.com/api/webhooks/1/{SECRET}",
        f"hf_{SECRET}abcdefgh12345678",
        f"sk-proj-{SECRET}-abcdefgh12345678",
        f"failed with password={SECRET}",
        f"failed with password='two words {SECRET}'",
        f"Authorization: Bearer {SECRET}",
        f"authorization: Basic {SECRET}",
        f"train.py --hub_token {SECRET} --lr 1e-4",
        f"train.py --hub-token={SECRET}",
        json.dumps({"config": {"api_key": SECRET}}),
        f"config {json.dumps({'api_key': SECRET})} was read",
        f"config { ({'api_key': SECRET}) } was read",
        json.dumps({"inner": json.dumps({"api_key": SECRET})}),
        json.dumps(json.dumps({"connection_string": SECRET})),
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"aB3dE5gH7jK9mN1pQ3sT5v{SECRET}",
    ],
)
def test_a_secret_inside_a_text_is_hidden(text):
    assert SECRET not in redacted_json({"note": text})
    assert SECRET not in str(redacted([text]))
    assert SECRET not in redacted_text(text)
    assert SECRET not in json.dumps(redacted({text: 1}))


def test_the_word_after_an_option_that_names_a_secret_is_hidden():
    command = ["train.py", "--api_key", SECRET, "--lr", "1e-4"]
    assert redacted(command) == ["train.py", "--api_key", "<hidden>", "--lr", "1e-4"]


@dataclass
class Opaque:
    note: str = SECRET


def test_of_an_object_the_type_alone_is_shown():
    shown = redacted({"plugin": Opaque(), "raw": SECRET.encode()})
    assert shown == {"plugin": "<Opaque>", "raw": "<hidden>"}


def test_what_is_a_value_in_its_text_form_is_shown():
    said = {"dtype": torch.bfloat16, "device": torch.device("cpu"), "path": Path("a/b")}
    assert redacted(said) == {"dtype": "torch.bfloat16", "device": "cpu", "path": "a/b"}


def test_a_structure_that_contains_itself_ends():
    loop: dict = {"api_key": SECRET}
    loop["again"] = loop
    assert SECRET not in redacted_json(loop)


KEYS = st.sampled_from([*SECRET_KEYS, "note", "args", "model"])
NESTED = st.recursive(
    st.builds(lambda key: {key: SECRET}, st.sampled_from(SECRET_KEYS)),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(KEYS, inner, min_size=1, max_size=3)
        | st.builds(json.dumps, inner)
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(NESTED)
def test_no_nesting_of_mappings_lists_and_json_lets_a_secret_through(value):
    assert SECRET not in json.dumps(redacted({"value": value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", 1e-4),
        ("include_num_input_tokens_seen", "all"),
        ("include_num_input_tokens_seen", "non_padding"),
        ("pad_token_id", 0),
        ("eos_token_id", [151643, 151645]),
        ("image_token_index", 151655),
        ("pad_token", "<|endoftext|>"),
        ("eos_token", "</s>"),
        ("max_new_tokens", 128),
        ("num_input_tokens_seen", 123456789),
        ("token_dropout", 0.1),
        ("tokenizer_class", "BertTokenizer"),
        ("architectures", ["Qwen2VLForConditionalGeneration"]),
        ("name_or_path", "meta-llama/Llama-3.2-11B-Vision-Instruct"),
        ("_commit_hash", "4b1d7e8a9c0f2e3d5b6a7c8d9e0f1a2b3c4d5e6f"),
        ("output_dir", "/data/run_20260101/Nov23_15-28-39_ip-10-0-0-1"),
        ("keys_to_ignore_at_inference", ["past_key_values"]),
        ("num_key_value_heads", 8),
        ("hub_token", None),
        ("hub_token", ""),
        ("use_auth_token", True),
        ("url", "https://huggingface.co/models?page=2"),
        ("master_addr", "tcp://10.0.0.1:29500"),
        ("id2label", {"0": "NEGATIVE", "1": "POSITIVE"}),
    ],
)
def test_what_is_no_secret_is_shown(key, value):
    assert redacted({key: value}) == {key: value}


def test_the_arguments_of_a_training_are_shown_but_for_their_secrets(tmp_path):
    from transformers import BertConfig, TrainingArguments

    arguments = TrainingArguments(output_dir=str(tmp_path / "out"), hub_token=SECRET, report_to=[])
    said = {**arguments.to_dict(), "hub_token": SECRET, **BertConfig().to_dict()}
    shown = redacted(said)
    hidden = {key for key in said if shown[key] != said[key] and "<hidden>" in str(shown[key])}
    assert hidden == {"hub_token"}
    with RunWriter(str(tmp_path / "run")) as writer:
        writer.add_text("args", redacted_json(said))
    assert SECRET.encode() not in event_files(tmp_path)[0].read_bytes()


@pytest.mark.parametrize("piece", ["token", "key=", "a:b@", "://a:", "--token ", "x", '{"a":'])
def test_a_long_text_takes_no_long_time(piece):
    began = time.perf_counter()
    redacted_text(piece * (20_000 // len(piece)))
    assert time.perf_counter() - began < 2

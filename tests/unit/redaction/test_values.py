"""No secret of an argument, a configuration or a URL gets through, and little else is hidden."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tbtrainer.redaction import redacted, redacted_json, redacted_name, redacted_text
from tbtrainer.run import RunWriter
from tests.events import event_files
from tests.harmless_values import COMMIT, HARMLESS
from tests.token_forms import KNOWN_FORMS, tokens

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
def test_the_value_of_a_secrets_key_is_hidden(key: str) -> None:
    assert SECRET not in redacted_json({key: SECRET})
    assert SECRET not in redacted_json({"deep": [{"er": {key: {"inside": SECRET}}}]})
    assert SECRET not in redacted_json({key: [SECRET, {"inside": SECRET}]})
    assert SECRET not in redacted_json({"config": json.dumps({"nested": {key: SECRET}})})


@pytest.mark.parametrize("key", ["password", "api_key", "hub_token", "secret"])
def test_a_secret_that_is_a_number_is_hidden(key: str) -> None:
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
        f"https://user:two words {SECRET}@host/path",
        f"https://user:{SECRET} word@host:8080",
        f"https://api.telegram.org/bot123456:{SECRET}/send",
        f"https://firm.webhook.office.com/webhookb2/1/IncomingWebhook/{SECRET}",
        f"https://hooks.zapier.com/hooks/catch/1/{SECRET}",
        f"https://host/path#access_token={SECRET}",
        f"scp file user:{SECRET}@host:/data",
        f"user:{SECRET}@10-0-0-1.host",
        f"curl -u user:{SECRET} https://host/",
        f"curl --user 'user:{SECRET}' https://host/",
        f"mysql -h host -u root -p{SECRET} table",
        f"mysqldump -p{SECRET} table",
        f"sshpass -p {SECRET} ssh host",
        f"docker login -u jane -p {SECRET}",
        f"<db><password>{SECRET}</password></db>",
        f'<add key="DB_PASSWORD" value="{SECRET}"/>',
        f"- name: DB_PASSWORD\n  value: {SECRET}",
        f"headers [('Authorization', '{SECRET}')]",
        f"sent Bearer {SECRET}abcdefgh",
        f"failed with password={SECRET}",
        f'cut off at {{"password": "{SECRET}',
        f"passphrase: two words {SECRET}",
        f"Cookie: a=b; session={SECRET}",
        f"password := {SECRET}",
        f"password => {SECRET}",
        f"<password type='text'>{SECRET}</password>",
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
def test_a_secret_inside_a_text_is_hidden(text: str) -> None:
    assert SECRET not in redacted_json({"note": text})
    assert SECRET not in str(redacted([text]))
    assert SECRET not in redacted_text(text)
    assert SECRET not in json.dumps(redacted({text: 1}))


def test_the_word_after_a_secrets_option_is_hidden() -> None:
    command = ["train.py", "--api_key", SECRET, "--lr", "1e-4"]
    assert redacted(command) == ["train.py", "--api_key", "<hidden>", "--lr", "1e-4"]


@dataclass
class Opaque:
    note: str = SECRET


def test_of_an_object_the_type_alone_is_shown() -> None:
    shown = redacted({"plugin": Opaque(), "raw": SECRET.encode()})
    assert shown == {"plugin": "<Opaque>", "raw": "<hidden>"}


def test_what_is_a_value_in_its_text_form_is_shown() -> None:
    said = {"dtype": torch.bfloat16, "device": torch.device("cpu"), "path": Path("a/b")}
    assert redacted(said) == {"dtype": "torch.bfloat16", "device": "cpu", "path": "a/b"}


def test_a_structure_that_contains_itself_ends() -> None:
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
def test_a_secret_is_hidden_in_every_nesting(value: Any) -> None:
    assert SECRET not in json.dumps(redacted({"value": value}))


@pytest.mark.parametrize(("key", "value"), HARMLESS, ids=lambda part: str(part)[:40])
def test_what_is_no_secret_is_shown(key: str, value: Any) -> None:
    assert redacted({key: value}) == {key: value}


def test_the_default_configurations_of_models_are_shown() -> None:
    from transformers import CONFIG_MAPPING, GenerationConfig

    for name in ("bert", "gpt2", "llama", "qwen2_vl", "t5", "vit", "wav2vec2", "whisper"):
        values = json.loads(CONFIG_MAPPING[name]().to_json_string(use_diff=False))
        assert redacted(values) == values
    assert "<hidden>" not in redacted_json(GenerationConfig().to_dict())


@pytest.mark.parametrize(
    "shape",
    [
        {"name": "DB_PASSWORD", "value": SECRET},
        {"env": [{"name": "LR", "value": "1"}, {"name": "DB_PASSWORD", "value": SECRET}]},
        {"key": "db_pass", "default": SECRET},
        ("password", SECRET),
        [["Authorization", SECRET], ["Accept", "text/plain"]],
        {"headers": [("X-Api-Key", SECRET)]},
        ["curl", "-u", f"user:{SECRET}", "https://host"],
        ["mysql", "-u", "root", f"-p{SECRET}"],
        ["sshpass", "-p", SECRET, "ssh", "host"],
    ],
    ids=str,
)
def test_a_secret_named_by_its_neighbour_is_hidden(shape: dict[str, Any]) -> None:
    assert SECRET not in json.dumps(redacted({"note": shape}))
    assert SECRET not in json.dumps(redacted({"note": json.dumps(shape)}))
    assert SECRET not in redacted_text(f"config {json.dumps(shape)} was read")


def test_redacting_twice_changes_nothing_more() -> None:
    text = f"https://user:{SECRET}@host?token={SECRET} password={SECRET} ('pin', '{SECRET}')"
    assert redacted_text(redacted_text(text)) == redacted_text(text)


def test_a_name_keeps_its_hexadecimal_digits_and_no_token() -> None:
    assert redacted_name(f"eval/{COMMIT}/loss") == f"eval/{COMMIT}/loss"
    assert redacted_name(COMMIT) == COMMIT
    for form in KNOWN_FORMS.values():
        (token,) = tokens(form, 1)
        assert token[-8:] not in redacted_name(f"reward_{token}")


def test_only_the_secrets_of_training_arguments_are_hidden(tmp_path: Path) -> None:
    from transformers import BertConfig, TrainingArguments

    arguments = TrainingArguments(output_dir=str(tmp_path / "out"), hub_token=SECRET, report_to=[])
    said = {**arguments.to_dict(), "hub_token": SECRET, **BertConfig().to_dict()}
    shown = redacted(said)
    hidden = {key for key in said if shown[key] != said[key] and "<hidden>" in str(shown[key])}
    assert hidden == {"hub_token"}
    with RunWriter(str(tmp_path / "run")) as writer:
        writer.add_text("args", redacted_json(said))
    assert SECRET.encode() not in event_files(tmp_path)[0].read_bytes()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("password=Tr0ub4dor&3xyzzy", "password=<hidden>"),
        ("password: Tr0ub4dor&3xyzzy", "password: <hidden>"),
        ("DB_PASS=ab;cd,ef", "DB_PASS=<hidden>"),
        ("?password=abc&user=joe", "?password=<hidden>&user=joe"),
        ("password=abc, user=joe", "password=<hidden>, user=joe"),
    ],
)
def test_marks_inside_a_password_do_not_end_it(text: str, shown: str) -> None:
    assert redacted_text(text) == shown

"""Names of secrets are told from names that only sound like one."""

import pytest

from tbtrainer.redaction import names_a_secret, redacted

SECRET = "MARKER7f3a9c"


@pytest.mark.parametrize(
    "key",
    [
        *("db_pass", "pass", "dbPass", "smtppass", "passcode", "user_passcode", "pw", "db_pw"),
        *("pin", "card_pin", "otp", "otp_code", "totp", "creds", "db_creds", "cred", "jwt"),
        *("jwt_value", "pat", "gitlab_pat", "sessionid", "PHPSESSID", "session_id", "sas_url"),
        *("azureSasUrl", "seed_phrase", "mnemonic", "recovery_code", "license_key", "keys"),
        *("storage_key", "text_key", "DB_PASS", "X-Api-Key"),
    ],
)
def test_the_name_of_a_secret_is_recognised(key: str) -> None:
    assert redacted({key: SECRET}) == {key: "<hidden>"}


@pytest.mark.parametrize("key", ["pin", "otp", "passcode", "db_pass", "password"])
def test_a_number_can_be_a_secret(key: str) -> None:
    assert redacted({key: 123456}) == {key: "<hidden>"}


@pytest.mark.parametrize(
    "key",
    [
        *("proj_wt", "steps_wd", "compass", "bypass", "pin_memory", "spin", "pattern", "patience"),
        *("sasrec", "wpm", "opt", "author", "authors_note", "key_proj", "keyword", "monkey"),
        *("passage", "num_passes", "forward_pass", "session", "process_id", "seed", "licensed"),
    ],
)
def test_a_name_that_only_resembles_a_secret_is_shown(key: str) -> None:
    assert redacted({key: "Some-Value-1"}) == {key: "Some-Value-1"}


def test_a_license_key_is_hidden_and_a_license_name_shown() -> None:
    assert redacted({"license": "ABCD-1234-EFGH-5678"}) == {"license": "<hidden>"}
    assert redacted({"license": "CC-BY-NC-SA-4.0"}) == {"license": "CC-BY-NC-SA-4.0"}


def test_a_columns_key_is_shown_and_a_services_hidden() -> None:
    assert not names_a_secret("text_key", "prompt")
    assert names_a_secret("text_key", "pR0mpt-9f")
    assert names_a_secret("wandb_key", "prompt")


def test_keys_that_are_plain_names_are_shown() -> None:
    assert not names_a_secret("keys", ["input_ids", "labels", "layer_0"])
    assert not names_a_secret("keys", {"text": "prompt"})
    assert names_a_secret("keys", ["input_ids", SECRET])
    assert names_a_secret("keys", {"openai": SECRET})

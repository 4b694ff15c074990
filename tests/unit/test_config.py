"""Settings: flags before variables before defaults, and a sentence for everything that cannot work."""

import argparse
import dataclasses
from pathlib import Path

import pytest

from broker.config import Config, ConfigError, add_flags, default_data, load

NO_FLAGS: dict[str, str | None] = {}


def test_nothing_set_is_all_defaults() -> None:
    assert load(NO_FLAGS, {}) == Config()


def test_a_flag_counts_before_a_variable_and_that_before_the_default() -> None:
    variables = {"BROKER_PORT": "9001", "BROKER_SHARDS": "3", "BROKER_DATA": "/somewhere", "BROKER_PLACE_WAIT_S": "0.5"}
    flags = {"port": "9000", "shards": None, "unknown": "x"}
    expected = Config(port=9000, shards=3, data=Path("/somewhere"), place_wait_s=0.5)
    assert load(flags, variables | {"OTHER": "1", "BROKER_UNKNOWN": "1"}) == expected


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert load(NO_FLAGS, {"BROKER_PORT": "", "BROKER_ADMIN_TOKEN": ""}) == Config()


def test_every_setting_but_the_secrets_has_a_flag_and_every_setting_a_variable() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    text = parser.format_help()
    for each in dataclasses.fields(Config):
        flag = "--" + each.name.replace("_", "-")
        assert (flag + " " in text) != each.metadata["secret"], flag
        assert each.metadata["why"]
    assert {each.name for each in dataclasses.fields(Config) if each.metadata["secret"]} == {
        "admin_token",
        "webhook_secrets",
    }
    given = parser.parse_args(["--place-wait-s", "0.5", "--database", "postgresql://x"])
    assert load(vars(given), {}) == Config(place_wait_s=0.5, database="postgresql://x")
    token = "t" * 32
    assert load(NO_FLAGS, {"BROKER_ADMIN_TOKEN": token}) == Config(admin_token=token)


def test_a_secret_does_not_show_where_settings_are_printed() -> None:
    config = Config(admin_token="hunter2-hunter2-hunter2", webhook_secrets="whsec_hunter2")
    assert "hunter2" not in repr(config)


REFUSED = {
    "port": ("-1", "65536", "http", "80.5", "0x50", "1e3", "9" * 5000),
    "shards": ("0", "-1", "two", "2.5", "NaN"),
    "place_wait_s": ("0", "-1", "nan", "inf", "-inf", "1e400", "soon", "1,5"),
    "hours": ("sometimes", "xnys", "ALWAYS"),
    "log_level": ("loud", "INFO", "10"),
    "exchange": (
        "127.0.0.1:8090",
        "ftp://x",
        "http://",
        "exchange",
        "http://a b",
        "//x",
        "http://x:99999",
        "http://[x",
    ),
    "public_url": ("broker.example", "mailto:x", "https://"),
    "host": ("a" * 300, "é" * 70, ".."),
    "admin_token": ("é" * 32, "with a space", "line\nbreak and more of it", "a" * 300, "fifteen-letters"),
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in REFUSED.items() for text in texts])
def test_what_cannot_work_is_refused_in_a_sentence_that_names_it(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(NO_FLAGS, {f"BROKER_{name.upper()}": text})
    sentence = str(refused.value)
    assert sentence.startswith((name, name.replace("_", " ")))
    assert len(sentence) <= 200
    assert name != "admin_token" or text not in sentence


ACCEPTED: list[tuple[str, str, object]] = [
    ("port", "0", 0),
    ("port", "65535", 65535),
    ("place_wait_s", "1.5", 1.5),
    ("place_wait_s", "2", 2.0),
    ("place_wait_s", "1e-2", 0.01),
    ("hours", "XNYS", "XNYS"),
    ("host", "0.0.0.0", "0.0.0.0"),
    ("host", "::1", "::1"),
    ("host", "localhost", "localhost"),
    ("host", "broker.example", "broker.example"),
    ("exchange", "http://127.0.0.1:8090", "http://127.0.0.1:8090"),
    ("exchange", "https://[::1]:8090/sim/", "https://[::1]:8090/sim/"),
    ("public_url", "https://broker.example", "https://broker.example"),
    ("admin_token", "~!" * 128, "~!" * 128),
    ("database", "postgresql://broker@db/broker?sslmode=require", "postgresql://broker@db/broker?sslmode=require"),
    ("data", "relative/folder", Path("relative/folder")),
]


@pytest.mark.parametrize(("name", "text", "value"), ACCEPTED)
def test_what_can_work_is_read(name: str, text: str, value: object) -> None:
    found = getattr(load(NO_FLAGS, {f"BROKER_{name.upper()}": text}), name)
    assert (found, type(found)) == (value, type(value))


def test_data_lies_in_the_users_own_folder_unless_root_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_data() == Path("/var/lib/stockbroker")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_data() == Path("/home/ann/.local/share/stockbroker")
    monkeypatch.setenv("XDG_DATA_HOME", "/data/ann")
    assert default_data() == Path("/data/ann/stockbroker")

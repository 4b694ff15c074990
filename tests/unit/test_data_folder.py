"""The data folder: its lock, and the secrets that it keeps."""

import json
import stat
from pathlib import Path

import pytest

from broker.data_folder import DataFolder, DataFolderError, kept_secret


def test_a_secret_stays_the_same_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    with DataFolder(tmp_path / "data") as folder:
        first = folder.secret("adminToken")
    with DataFolder(tmp_path / "data") as folder:
        assert folder.secret("adminToken") == first
    file = tmp_path / "data" / "secrets.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_second_broker_on_the_folder_is_told_where_the_first_one_is(tmp_path: Path) -> None:
    with DataFolder(tmp_path) as folder:
        folder.write_running("http://127.0.0.1:8080")
        with pytest.raises(DataFolderError, match=r"Another broker runs .*http://127.0.0.1:8080"), DataFolder(tmp_path):
            pass
    with DataFolder(tmp_path):
        assert not (tmp_path / "running.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_damaged_file_of_secrets_is_told_and_not_replaced(content: str, tmp_path: Path) -> None:
    file = tmp_path / "secrets.json"
    file.write_text(content)
    with pytest.raises(DataFolderError, match="is damaged"):
        kept_secret(file, "adminToken", "fresh")
    assert file.read_text() == content


def test_secrets_are_kept_side_by_side(tmp_path: Path) -> None:
    file = tmp_path / "secrets.json"
    assert kept_secret(file, "one", "1") == "1"
    assert kept_secret(file, "two", "2") == "2"
    assert json.loads(file.read_text()) == {"one": "1", "two": "2"}

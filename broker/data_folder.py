"""The data folder: one broker at a time, its generated secrets, and where it can be reached while it runs."""

import fcntl
import json
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from broker.core.signing import encode_secret


class DataFolderError(Exception):
    """The folder cannot be used; the message says why and what to do."""


class DataFolder:
    """A broker's folder, locked for as long as the broker runs; a killed broker's lock is free at once."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        try:
            make_private(self.path)
            # The file stays open until __exit__: closing it would give the lock away.
            self._lock = open(self.path / "lock", "a", encoding="utf-8")
        except OSError as error:
            sentence = f"The data folder {self.path} cannot be used: {error.strerror}. Name another one with --data."
            raise DataFolderError(sentence) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            sentence = (
                f"Another broker runs on the data folder {self.path}{self._where()}. "
                "Stop it first, or name another folder with --data."
            )
            raise DataFolderError(sentence) from error
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        (self.path / "running.json").unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()

    def _where(self) -> str:
        running = read_json(self.path / "running.json")
        return f" (process {running['pid']}, {running['url']})" if running else ""

    def secret(self, name: str) -> str:
        """A secret of that name, made when first asked for."""
        return kept_secret(self.path / "secrets.json", name, secrets.token_urlsafe(32))

    def write_running(self, url: str, admin_url: str | None = None, certificate: Path | None = None) -> None:
        """Tell `broker customer` and whoever else looks where the broker is reached, and what it shows there.

        A certificate is for the name that clients use, not for the address that this machine's programs do.
        """
        running: dict[str, Any] = {"url": url, "adminUrl": admin_url or url, "pid": os.getpid()}
        if certificate is not None:
            running["certificate"] = str(certificate.absolute())
        write_private(self.path / "running.json", running)


def make_private(path: Path) -> None:
    """Make a folder that only its owner can look into, where it does not exist."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def write_private(path: Path, content: Any) -> None:
    """Write JSON to a file that only its owner can read, all of it or nothing."""
    unfinished = path.with_suffix(f".{os.getpid()}")
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())  # or a power cut could leave an empty file in its place
    unfinished.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file, empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def kept_secret(path: Path, name: str, fresh: str) -> str:
    """The secret of that name in a file of secrets; `fresh` becomes it where there is none yet."""
    with open(path.with_suffix(".lock"), "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a broker and an exchange that start at once must agree on one
        known = read_json(path)
        if not known and path.exists():
            sentence = (
                f"The file {path} is damaged. Put it back from a backup, or remove it: new secrets are made then."
            )
            raise DataFolderError(sentence)
        if name not in known:
            known[name] = fresh
            write_private(path, known)
        return str(known[name])


def shared_webhook_secret(folder: Path) -> str:
    """The secret that a broker and an exchange of the same user share, without anybody having to set it."""
    try:
        make_private(folder)
        return kept_secret(folder / "webhook.json", "webhook", encode_secret(secrets.token_bytes(32)))
    except OSError as error:
        sentence = (
            f"The secret of the exchange's callbacks cannot be kept in {folder}: {error.strerror}. "
            "Set BROKER_WEBHOOK_SECRETS for the broker and the exchange."
        )
        raise DataFolderError(sentence) from error

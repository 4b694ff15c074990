"""Wrong tokens: whoever looks into the log for where they come from finds it, and the log does not fill with them."""

import pytest
import structlog
from structlog.testing import capture_logs

from broker import auth
from broker.auth import Authenticator, NotAuthenticated, TooManyTries
from broker.config import Config
from broker.db import Database


async def test_the_address_of_too_many_wrong_tokens_is_in_the_log_once_in_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000_000.0
    monkeypatch.setattr(auth, "monotonic", lambda: now)
    monkeypatch.setattr(auth, "log", structlog.wrap_logger(None, wrapper_class=structlog.BoundLogger))
    config = Config(auth_failures_per_minute=1)
    authenticator = Authenticator(Database("", config), "admin", config)

    async def tries(address: str, count: int) -> None:
        for _ in range(count):
            with pytest.raises(TooManyTries):
                await authenticator.customer("Bearer x.secret", address)

    with capture_logs() as lines:
        for address in ("192.0.2.1", "192.0.2.2"):
            with pytest.raises(NotAuthenticated):
                await authenticator.customer("Bearer x.secret", address)
        assert lines == [], "one wrong token is nothing to speak of"
        await tries("192.0.2.1", 100)
        now += 9.9
        await tries("192.0.2.2", 100)
        now += 0.1
        await tries("192.0.2.2", 100)
    expected = {"event": "auth.too_many_failures", "log_level": "warning"}
    assert lines == [expected | {"address": address} for address in ("192.0.2.1", "192.0.2.2")]

"""What the broker logs of all these faults nobody could read; the tests that follow in the same process log again."""

from collections.abc import Iterator

import pytest
import structlog

from tests.sim.__main__ import quiet


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    was = structlog.get_config()
    quiet()
    yield
    structlog.configure(**was)

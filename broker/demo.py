"""Demo customers: made once for a data folder, with the same keys at every start: a pasted command goes on working."""

import hashlib
from dataclasses import dataclass

from broker.assembly import Running
from broker.auth import NotAuthenticated
from broker.core.money import Money
from broker.core.types import AccountType
from broker.data_folder import read_json, write_private

CASH = Money(100_000 * 10_000)
"""What each demo customer begins with."""


@dataclass(frozen=True, slots=True)
class DemoCustomer:
    """A demo customer with its secret, as it is printed."""

    customer_id: str
    key_id: str
    secret: str

    @property
    def token(self) -> str:
        """The bearer token."""
        return f"{self.key_id}.{self.secret}"


async def demo_customers(running: Running, count: int) -> list[DemoCustomer]:
    """The data folder's first `count` demo customers; those that are missing, or of another database, are made."""
    file = running.folder.path / "demo.json"
    kept = read_json(file)
    database = hashlib.sha256(running.dsn.encode()).hexdigest()[:16]  # the DSN may hold a password
    try:
        known = [DemoCustomer(**each) for each in kept.get(database, [])]
    except TypeError:  # not what we wrote: make new ones
        known = []
    customers = [each for each in known if await _still_valid(running, each)]
    while len(customers) < count:
        created = await running.customers.create(f"Demo {len(customers) + 1}", AccountType.CASH, CASH)
        customers.append(DemoCustomer(str(created.customer_id), created.key.key_id, created.key.secret))
    fields = [{"customer_id": c.customer_id, "key_id": c.key_id, "secret": c.secret} for c in customers]
    write_private(file, kept | {database: fields})
    return customers[:count]


async def _still_valid(running: Running, customer: DemoCustomer) -> bool:
    try:
        caller = await running.authenticator.customer(f"Bearer {customer.token}")
    except NotAuthenticated:
        return False
    return str(caller.customer_id) == customer.customer_id and not caller.suspended

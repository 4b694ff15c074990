"""What a killed exchange finds again: whole lines, never a torn one, one owner at a time."""

import os

import msgspec
import pytest

from broker.core.money import Money
from broker.core.types import OrderType, Side
from broker.simulator.journal import (
    FILE_NAME,
    Callback,
    Journal,
    JournalDamaged,
    JournalInUse,
    Record,
    acked_line,
    callback_line,
    execution_line,
    order_line,
)
from broker.simulator.orders import Execution, Order
from broker.simulator.wire import OrderStatus

ORDER = Order(
    id="01990000-0000-7000-8000-000000000001",
    symbol="AAPL",
    side=Side.BUY,
    type=OrderType.MARKET,
    quantity=10,
    max_price=Money(19_971_000),
    callback_url="http://127.0.0.1:8080/webhooks/exchange",
    status=OrderStatus.PARTIALLY_FILLED,
    filled_quantity=4,
    executions=(Execution(4, Money(1_902_000), "2026-11-27T14:30:00.000000+00:00"),),
)
EXECUTION = Execution(6, Money(1_902_100), "2026-11-27T14:30:01.000000+00:00")
CALLBACK = Callback(17, ORDER.callback_url, b'{"type":"FILLED"}')


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path)
    yield journal
    journal.close()


def test_what_is_appended_is_read_again(journal):
    assert list(journal.replay()) == []
    journal.rewrite([])
    journal.append([order_line(ORDER), execution_line(ORDER.id, EXECUTION), callback_line(CALLBACK)])
    journal.append([acked_line([CALLBACK, CALLBACK])])
    assert list(journal.replay()) == [
        Record(order=ORDER),
        Record(of=ORDER.id, execution=EXECUTION),
        Record(number=17, url=ORDER.callback_url, event=msgspec.Raw(CALLBACK.body)),
        Record(acked=[17, 17]),
    ]


@pytest.mark.parametrize("kept", [1, 100, -1])
def test_a_torn_last_line_is_as_if_it_had_never_been(tmp_path, journal, kept):
    line = order_line(ORDER)
    (tmp_path / FILE_NAME).write_bytes(line + line[:kept])
    assert list(journal.replay()) == [Record(order=ORDER)]


def test_damage_in_the_middle_is_told_with_its_place(tmp_path, journal):
    (tmp_path / FILE_NAME).write_bytes(order_line(ORDER) + b'{"order":{"id"\n' + order_line(ORDER))
    with pytest.raises(JournalDamaged, match=r"exchange\.journal, line 2: "):
        list(journal.replay())


def test_rewriting_replaces_everything_at_once(tmp_path, journal):
    journal.rewrite([order_line(ORDER)] * 3)
    journal.rewrite([callback_line(CALLBACK)])
    journal.append([acked_line([CALLBACK])])
    assert [record.number for record in journal.replay()] == [17, 0]
    assert os.listdir(tmp_path) == [FILE_NAME]


def test_a_folder_belongs_to_one_exchange(tmp_path, journal):
    with pytest.raises(JournalInUse, match="another exchange works in"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()


def test_a_disk_that_takes_a_part_of_it_is_an_error(journal, monkeypatch):
    journal.rewrite([])
    monkeypatch.setattr(os, "write", lambda fd, data: len(data) - 1)
    with pytest.raises(OSError, match="took"):
        journal.append([order_line(ORDER)])

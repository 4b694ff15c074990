"""One feed for several brokers, through Redis: one of them follows the exchange, all of them follow Redis.

Whoever holds the key `…:leader` follows the exchange and writes what comes: a hash for each symbol, and every message
on a channel, numbered anew. Writing is one script that first looks who leads, so that a process which was held up
cannot write over its successor. The key lives for three seconds; when its holder dies or loses the exchange, another
one takes over with a snapshot, and everybody else begins anew from there.
"""

import asyncio
import random
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import msgspec
import redis.asyncio as aioredis
import structlog
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from broker.market.feed import FeedBroken, Message, Numbered, Source, parse, tell_lost

log = structlog.get_logger()

_FIELDS = {"symbol", "bid", "ask", "last", "bid_size", "ask_size", "at"}
_LEASE_MS = 3_000
_RENEW_S = 1.0
_SILENCE_S = 3.0
"""The leader says every second that it is there."""

# KEYS: leader, sequence, symbols, who wrote the last snapshot; ARGV: token, lease, prefix of a symbol's key, channel,
# type, quotes and trades as JSON, then symbol, bid, ask, last, bid_size, ask_size, at of each quote.
_WRITE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if ARGV[5] == 'alive' then redis.call('PUBLISH', ARGV[4], '') return 1 end
if ARGV[5] == 'snapshot' then
    for _, symbol in ipairs(redis.call('SMEMBERS', KEYS[3])) do redis.call('DEL', ARGV[3] .. symbol) end
    redis.call('DEL', KEYS[3])
    redis.call('SET', KEYS[4], ARGV[1])
end
for i = 8, #ARGV, 7 do
    redis.call('HSET', ARGV[3] .. ARGV[i], 'symbol', ARGV[i], 'bid', ARGV[i + 1], 'ask', ARGV[i + 2],
        'last', ARGV[i + 3], 'bid_size', ARGV[i + 4], 'ask_size', ARGV[i + 5], 'at', ARGV[i + 6])
    redis.call('SADD', KEYS[3], ARGV[i])
end
local number = redis.call('INCR', KEYS[2])
redis.call('PUBLISH', ARGV[4], string.format('{"type":"%s","sequence":%d,"quotes":%s,"trades":%s}',
    ARGV[5], number, ARGV[6], ARGV[7]))
return 1
"""

# KEYS as above; ARGV: prefix. The number of the last message, then all hashes; nothing while nobody leads, and while
# the leader itself has heard nothing yet: what an earlier one left is old.
_READ = """
local leader = redis.call('GET', KEYS[1])
if not leader or leader ~= redis.call('GET', KEYS[4]) then return {} end
local found = {redis.call('GET', KEYS[2])}
for _, symbol in ipairs(redis.call('SMEMBERS', KEYS[3])) do
    found[#found + 1] = redis.call('HGETALL', ARGV[1] .. symbol)
end
return found
"""

_LET_GO = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class SharedSource:
    """The feed of one exchange through Redis. `inner` is how a process follows the exchange while it leads."""

    def __init__(self, inner: Source, url: str, venue: str, rng: random.Random) -> None:
        self._inner = inner
        self._rng = rng
        self._token = secrets.token_hex(8)
        self._redis = aioredis.from_url(url, socket_timeout=_SILENCE_S, socket_connect_timeout=_SILENCE_S)
        # Channels, unlike keys, are common to all databases of a Redis.
        prefix = f"stockbroker:{self._redis.connection_pool.connection_kwargs.get('db', 0)}:{venue}"
        self._keys = [f"{prefix}:leader", f"{prefix}:sequence", f"{prefix}:symbols", f"{prefix}:ready"]
        self._channel, self._quote = f"{prefix}:feed", f"{prefix}:quote:"
        self._write = self._redis.register_script(_WRITE)
        self._read = self._redis.register_script(_READ)
        self._let_go = self._redis.register_script(_LET_GO)

    # -------------------------------------------------------------- following Redis

    async def messages(self) -> AsyncGenerator[str | bytes, None]:
        """What the leader writes. Raises FeedBroken where nobody leads, and where Redis is away."""
        try:
            async with self._redis.pubsub() as channel:
                await channel.subscribe(self._channel)
                number, snapshot = await self._snapshot()
                yield snapshot
                async for message in _heard(channel):
                    if message and _number(message) > number:  # what came before the snapshot is in it
                        yield message
        except (RedisError, ValueError) as error:
            raise FeedBroken(f"Redis: {type(error).__name__}: {error}") from error

    async def _snapshot(self) -> tuple[int, bytes]:
        found = await self._read(keys=self._keys, args=[self._quote])
        if not found:
            raise FeedBroken("nobody follows the exchange at the moment")
        number = int(found[0] or 0)
        quotes = []
        for flat in found[1:]:
            words = [each.decode() for each in flat]
            quote: dict[str, str | int] = dict(zip(words[::2], words[1::2], strict=True))
            if quote.keys() < _FIELDS:  # somebody deleted it, or Redis had no room
                raise FeedBroken("a quote is missing in Redis")
            quotes.append({**quote, "bid_size": int(quote["bid_size"]), "ask_size": int(quote["ask_size"])})
        return number, msgspec.json.encode({"type": "snapshot", "sequence": number, "quotes": quotes})

    # -------------------------------------------------------------- leading

    async def lead(self) -> None:
        """Follow the exchange for all while nobody else does, for ever."""
        while True:
            self._token = secrets.token_hex(8)  # of this term: what an earlier one of ours left is old as well
            try:
                if await self._redis.set(self._keys[0], self._token, nx=True, px=_LEASE_MS):
                    log.info("feed.leading", channel=self._channel)
                    await self._pass_on()
            except Exception as error:  # noqa: BLE001 - this task's guard, as a feed's
                tell_lost("feed.not_leading", error)
            with suppress(RedisError):
                await self._give_up()
            await asyncio.sleep(_RENEW_S * self._rng.uniform(0.5, 1.5))

    async def _pass_on(self) -> None:
        """From the exchange to Redis; between the messages, that we are there."""
        numbered, following = Numbered(), None
        async with aclosing(self._inner.messages()) as messages:
            try:
                while True:
                    following = following or asyncio.ensure_future(anext(messages))
                    done, _ = await asyncio.wait({following}, timeout=_RENEW_S)
                    if not done:
                        await self._put("alive")
                        continue
                    message = numbered.read(following.result())
                    following = None
                    parse(message)  # what nobody could take is not passed on to everybody
                    await self._put_message(message)
            except StopAsyncIteration:
                raise FeedBroken("its source ended") from None
            finally:
                if following is not None:
                    following.cancel()
                    await asyncio.gather(following, return_exceptions=True)

    async def _put_message(self, message: Message) -> None:
        figures = [
            figure
            for each in message.quotes
            for figure in (
                each.symbol,
                each.bid,
                each.ask,
                each.last,
                each.bid_size,
                each.ask_size,
                each.at.isoformat(),
            )
        ]
        await self._put(
            message.type, msgspec.json.encode(message.quotes), msgspec.json.encode(message.trades), *figures
        )

    async def _put(self, type_: str, *words: str | bytes | int) -> None:
        fixed: list[str | bytes | int] = [self._token, _LEASE_MS, self._quote, self._channel, type_]
        if not await self._write(keys=self._keys, args=[*fixed, *words]):
            raise FeedBroken("another broker follows the exchange now")

    async def close(self) -> None:
        """Let go of the lead, so that another one need not wait for its end, and of Redis."""
        with suppress(RedisError):
            await self._give_up()
        await self._redis.aclose()

    async def _give_up(self) -> None:
        await self._let_go(keys=self._keys[:1], args=[self._token])


async def _heard(channel: PubSub) -> AsyncGenerator[bytes, None]:
    """What comes on the channel. Raises FeedBroken where nothing does, not even that somebody is there."""
    loop = asyncio.get_running_loop()
    heard_at = loop.time()
    while True:
        message = await channel.get_message(ignore_subscribe_messages=True, timeout=_SILENCE_S)
        if message is not None:
            heard_at = loop.time()
            yield message["data"]
        elif loop.time() - heard_at >= _SILENCE_S:
            raise FeedBroken("nobody follows the exchange any more")


def _number(message: bytes) -> int:
    """The sequence of a message that the script made."""
    begin = message.index(b'"sequence":') + 11
    return int(message[begin : message.index(b",", begin)])

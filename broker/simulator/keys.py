"""Under which keys the application keeps what its routes work with."""

import asyncio

from aiohttp import web

from broker.simulator.feed import Feed
from broker.simulator.market import Market
from broker.simulator.venue import Venue

MARKET = web.AppKey("market", Market)
VENUE = web.AppKey("venue", Venue)
FEED = web.AppKey("feed", Feed)
STOPPING = web.AppKey("stopping", asyncio.Event)

"""The simulated exchange: a program of its own that a broker talks to over HTTP, with signed callbacks.

docs/exchange-contract.md is what it serves. It imports `broker.core` and nothing else of the broker.
"""

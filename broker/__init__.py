"""A self-hosted stockbroker: the server between customers and a stock exchange."""

"""Alpaca's API as a dialect: the same commands and the same rows as our own, in Alpaca's words."""

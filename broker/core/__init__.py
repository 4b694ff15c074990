"""The rules, as pure functions: no clock, no socket, no randomness; all of that comes in as arguments."""

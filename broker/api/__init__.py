"""The API's dialects: each translates requests to commands and rows to answers, and decides nothing."""

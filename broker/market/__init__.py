"""Market data: feeds come in, are known here, and go out to whoever looks or follows."""

-- Tell the brokers that stay that one has left: what it was at work on is theirs now.
SELECT pg_notify('broker_left', '')

-- What is open, and the oldest transaction of the database. Times of orders may be those of a test bench.
SELECT open.*, oldest.seconds AS transaction_s, oldest.age AS transaction_age
FROM oldest_transaction() AS oldest, (
    SELECT coalesce(sum(hold) FILTER (WHERE side = 'BUY'), 0)::bigint AS cash_held,
           coalesce(sum(hold) FILTER (WHERE side = 'SELL'), 0)::bigint AS shares_held,
           coalesce(greatest(extract(epoch FROM now() - min(created_at)), 0), 0)::float8 AS oldest_s,
           coalesce(greatest(extract(epoch FROM now() - min(created_at) FILTER (
               WHERE status = 'IN PROGRESS' AND NOT acknowledged)), 0), 0)::float8 AS unacknowledged_s
    FROM trade WHERE status IN ('PLACED', 'HELD', 'IN PROGRESS', 'PARTIALLY FILLED')
) AS open

-- $1 customer_id
-- Without their symbols: a list of all lists does not show them.
SELECT watchlist_id, name, created_at, updated_at FROM watchlist WHERE customer_id = $1 ORDER BY created_at, watchlist_id

-- $1 customer_id, $2 watchlist_id or null, $3 else its name
SELECT * FROM watchlist WHERE customer_id = $1 AND (watchlist_id = $2 OR $2 IS NULL AND name = $3)

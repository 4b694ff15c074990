-- $1 customer_id, $2 watchlist_id, $3 symbol
UPDATE watchlist SET updated_at = now(), symbols = array_remove(symbols, $3::text)
    WHERE customer_id = $1 AND watchlist_id = $2
    RETURNING *

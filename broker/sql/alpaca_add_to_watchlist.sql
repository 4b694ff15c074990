-- $1 customer_id, $2 watchlist_id or null, $3 else its name, $4 symbol: one that is in it already stays where it is
UPDATE watchlist SET updated_at = now(),
        symbols = CASE WHEN $4::text = ANY(symbols) THEN symbols ELSE array_append(symbols, $4::text) END
    WHERE customer_id = $1 AND (watchlist_id = $2 OR $2 IS NULL AND name = $3)
    RETURNING *

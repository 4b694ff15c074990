-- $1 customer_id, $2 watchlist_id or null, $3 else its name, $4 new name or null, $5 new symbols or null
UPDATE watchlist SET name = coalesce($4, name), symbols = coalesce($5::text[], symbols), updated_at = now()
    WHERE customer_id = $1 AND (watchlist_id = $2 OR $2 IS NULL AND name = $3)
    RETURNING *

-- $1 watchlist_id, $2 customer_id, $3 name, $4 symbols, $5 how many a customer may have; no row where it has them
INSERT INTO watchlist (watchlist_id, customer_id, name, symbols)
    SELECT $1, $2, $3, $4::text[] WHERE (SELECT count(*) FROM watchlist WHERE customer_id = $2) < $5
    RETURNING *

-- $1 customer_id
SELECT symbol, quantity, held, available, last_modified FROM positions WHERE customer_id = $1 ORDER BY symbol

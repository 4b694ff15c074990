-- $1 customer_id
SELECT symbol, quantity, held, available, cost, gain, last_modified FROM positions WHERE customer_id = $1 ORDER BY symbol

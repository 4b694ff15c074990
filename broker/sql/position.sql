-- $1 customer_id, $2 symbol
SELECT symbol, quantity, held, available, cost, gain, last_modified FROM positions WHERE customer_id = $1 AND symbol = $2

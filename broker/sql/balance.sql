-- $1 customer_id
SELECT amount, held, available, last_modified FROM balances WHERE customer_id = $1

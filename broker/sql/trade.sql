-- $1 customer_id, $2 trade_id
SELECT * FROM trade WHERE customer_id = $1 AND trade_id = $2

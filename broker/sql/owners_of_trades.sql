-- $1 trade_ids
SELECT trade_id, customer_id FROM trade WHERE trade_id = ANY($1::uuid[])

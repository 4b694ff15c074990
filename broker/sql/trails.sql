-- $1 trade_ids
SELECT trade_id, high_water FROM trail WHERE trade_id = ANY($1::uuid[])

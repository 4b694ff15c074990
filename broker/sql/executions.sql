-- $1 trade_id
SELECT execution_id, last_qty, last_px, at FROM execution WHERE trade_id = $1 ORDER BY at, execution_id

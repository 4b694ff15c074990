-- $1 trade_id
SELECT execution_id, last_qty, last_px, fee, corrects, at,
       EXISTS (SELECT FROM bust WHERE bust.venue = execution.venue AND bust.execution_id = execution.execution_id) AS busted
FROM execution
WHERE trade_id = $1 AND NOT suspense
ORDER BY at, execution_id

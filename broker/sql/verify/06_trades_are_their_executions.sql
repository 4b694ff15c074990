-- Without those in suspense; a correction stands in for an execution that is counted already.
SELECT trade.trade_id, trade.filled_quantity, trade.filled_value, coalesce(done.quantity, 0) AS executed,
       coalesce(done.value, 0) AS executed_value
FROM trade
LEFT JOIN (
    SELECT trade_id, sum(last_qty) AS quantity, sum(last_qty * last_px) AS value
    FROM execution WHERE NOT suspense AND corrects IS NULL
    GROUP BY trade_id
) AS done USING (trade_id)
WHERE trade.filled_quantity <> coalesce(done.quantity, 0) OR trade.filled_value <> coalesce(done.value, 0)

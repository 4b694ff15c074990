-- $1 customer_id, $2 rows
-- The seq of the newest event, 0 where there is none, and as of then the open orders that the exchange has not
-- acknowledged, newest first; one row with a null where there are none.
SELECT newest.seq, waiting.trade_id
FROM (SELECT coalesce(
    (SELECT event.seq FROM event WHERE event.customer_id = $1 ORDER BY event.seq DESC LIMIT 1), 0) AS seq) AS newest
LEFT JOIN LATERAL (
    SELECT trade.trade_id, trade.seq FROM trade
    WHERE trade.customer_id = $1 AND trade.status IN ('PLACED', 'HELD', 'IN PROGRESS', 'PARTIALLY FILLED')
      AND NOT trade.acknowledged
    ORDER BY trade.seq DESC LIMIT $2
) AS waiting ON true
ORDER BY waiting.seq DESC

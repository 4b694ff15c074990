-- $1 customer_id, $2 after this seq
-- What the customer had of each symbol at an event: what there is now, less what executions have moved since. Their
-- order is that of seq: times may be those of a clock that a test has set back. It reads all of them: only for one who
-- begins to catch up from there.
SELECT account.asset AS symbol, (account.balance - coalesce(moved.amount, 0))::bigint AS quantity
FROM account
LEFT JOIN (
    SELECT trade.symbol, sum(posting.amount) AS amount
    FROM event
    CROSS JOIN LATERAL (SELECT venue, symbol FROM trade WHERE trade.trade_id = event.trade_id LIMIT 1) AS trade
    CROSS JOIN LATERAL (
        SELECT * FROM execution
        WHERE execution.venue = trade.venue AND execution.execution_id = event.execution_id
          AND execution.trade_id = event.trade_id
        UNION ALL
        SELECT * FROM execution
        WHERE execution.trade_id = event.trade_id AND execution.execution_id = event.execution_id
          AND execution.venue <> trade.venue
        LIMIT 1
    ) AS execution
    LEFT JOIN LATERAL (
        SELECT bust.transfer_id FROM bust
        WHERE bust.venue = execution.venue AND bust.execution_id = execution.execution_id LIMIT 1
    ) AS bust ON event.step = 'busted'
    CROSS JOIN LATERAL (
        SELECT posting.amount FROM posting
        WHERE posting.owner_id = $1 AND posting.asset = trade.symbol
          AND posting.transfer_id = CASE event.step WHEN 'busted' THEN bust.transfer_id ELSE execution.transfer_id END
        LIMIT 1
    ) AS posting
    WHERE event.customer_id = $1 AND event.seq > $2 AND event.step IN ('executed', 'busted', 'corrected')
    GROUP BY trade.symbol
) AS moved ON moved.symbol = account.asset
WHERE account.owner_id = $1 AND account.asset <> '$USD'

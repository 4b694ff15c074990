-- A customer's trade starts after every earlier one at its exchange has ended, or rests there, acknowledged. (One whose
-- exchange has gone away holds up none at another.) One
-- that replaces another waits for nobody, and nobody waits for it.
WITH life AS (
    SELECT trade.customer_id, trade.trade_id, trade.seq, trade.venue, trade.order_type,
           min(event.at) FILTER (WHERE event.step = 'started') AS started,
           min(event.at) FILTER (WHERE event.status IN ('FILLED', 'REJECTED', 'CANCELLED', 'EXPIRED', 'REPLACED')
               OR trade.order_type <> 'market' AND event.step IN ('accepted', 'executed')) AS passed
    FROM trade JOIN event USING (trade_id)
    WHERE trade.replaces_filled IS NULL
    GROUP BY trade.trade_id
)
SELECT later.customer_id, later.trade_id, later.seq, later.started, earlier.trade_id AS earlier, earlier.passed
FROM (SELECT *, max(passed) OVER earlier AS latest_passed, bool_or(passed IS NULL) OVER earlier AS one_has_not
      FROM life WINDOW earlier AS (PARTITION BY customer_id, venue ORDER BY seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
     ) AS later
JOIN life AS earlier
    ON earlier.customer_id = later.customer_id AND earlier.venue = later.venue AND earlier.seq < later.seq
WHERE later.started IS NOT NULL AND (later.one_has_not OR later.latest_passed > later.started)
  AND (earlier.passed IS NULL OR earlier.passed > later.started)

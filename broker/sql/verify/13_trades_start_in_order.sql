-- A customer's trade starts after every earlier one at its exchange has ended, or rests there, acknowledged. (One whose
-- exchange has gone away holds up none at another.) One that replaces another, or was held here, waits for nobody, and
-- nobody waits for it. After means by its time and by its number: a clock that a test controls may be set back, and events
-- of one commit that an older schema kept are numbered in any order.
WITH life AS (
    SELECT trade.customer_id, trade.trade_id, trade.seq, trade.venue, trade.order_type,
           min(event.at) FILTER (WHERE event.step = 'started') AS started,
           min(event.seq) FILTER (WHERE event.step = 'started') AS started_seq,
           min(event.at) FILTER (WHERE passes) AS passed,
           min(event.seq) FILTER (WHERE passes) AS passed_seq
    FROM trade JOIN event USING (trade_id)
    CROSS JOIN LATERAL (SELECT event.status IN ('FILLED', 'REJECTED', 'CANCELLED', 'EXPIRED', 'REPLACED')
        OR (trade.order_type <> 'market' OR trade.time_in_force IN ('opg', 'cls'))
            AND event.step IN ('accepted', 'executed') AS passes) AS this
    WHERE trade.replaces_filled IS NULL
    GROUP BY trade.trade_id
    HAVING NOT bool_or(event.step = 'held')
)
SELECT later.customer_id, later.trade_id, later.seq, later.started, earlier.trade_id AS earlier, earlier.passed
FROM (SELECT *, max(passed) OVER earlier AS latest_passed,
             max(passed_seq) OVER earlier AS latest_passed_seq, bool_or(passed IS NULL) OVER earlier AS one_has_not
      FROM life WINDOW earlier AS (PARTITION BY customer_id, venue ORDER BY seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
     ) AS later
JOIN life AS earlier
    ON earlier.customer_id = later.customer_id AND earlier.venue = later.venue AND earlier.seq < later.seq
WHERE later.started IS NOT NULL AND (later.one_has_not
      OR (later.latest_passed > later.started AND later.latest_passed_seq > later.started_seq))
  AND (earlier.passed IS NULL OR (earlier.passed > later.started AND earlier.passed_seq > later.started_seq))

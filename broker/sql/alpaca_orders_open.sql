-- $1 customer_id, $2 after, $3 until, $4 side, $5 symbols, each or null, $6 newest first, $7 rows
-- Of the orders that are open: a bounded number.
SELECT * FROM order_with_links
WHERE customer_id = $1 AND status IN ('PLACED', 'HELD', 'IN PROGRESS', 'PARTIALLY FILLED')
  AND ($2::timestamptz IS NULL OR created_at > $2) AND ($3::timestamptz IS NULL OR created_at < $3)
  AND ($4::text IS NULL OR side::text = $4) AND ($5::text[] IS NULL OR symbol = ANY($5::text[]))
ORDER BY CASE WHEN $6::boolean THEN -seq ELSE seq END
LIMIT $7

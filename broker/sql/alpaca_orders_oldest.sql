-- $1 customer_id, $2 after, $3 until, $4 side, $5 symbols, each or null, $6 only those that have ended, $7 rows
SELECT * FROM order_with_links
WHERE customer_id = $1
  AND ($2::timestamptz IS NULL OR created_at > $2) AND ($3::timestamptz IS NULL OR created_at < $3)
  AND ($4::text IS NULL OR side::text = $4) AND ($5::text[] IS NULL OR symbol = ANY($5::text[]))
  AND (NOT $6::boolean OR status IN ('FILLED', 'REJECTED', 'CANCELLED', 'EXPIRED', 'REPLACED'))
ORDER BY seq ASC
LIMIT $7

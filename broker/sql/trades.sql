-- $1 customer_id, $2 before this seq, $3 statuses or null, $4 symbol or null, $5 from, $6 to, $7 rows
SELECT * FROM trade
WHERE customer_id = $1 AND seq < $2
  AND ($3::text[] IS NULL OR status::text = ANY($3::text[]))
  AND ($4::text IS NULL OR symbol = $4)
  AND ($5::timestamptz IS NULL OR created_at >= $5)
  AND ($6::timestamptz IS NULL OR created_at < $6)
ORDER BY seq DESC
LIMIT $7

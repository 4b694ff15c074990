-- $1 customer_id, $2 before this seq, $3 statuses or null, $4 with each: acknowledged, not, or null for either,
-- $5 symbol or null, $6 from, $7 to, $8 rows
SELECT * FROM trade
WHERE customer_id = $1 AND seq < $2
  AND ($3::text[] IS NULL OR EXISTS (
      SELECT FROM unnest($3::text[], $4::boolean[]) AS wanted (status, acknowledged)
      WHERE wanted.status = trade.status::text AND coalesce(wanted.acknowledged = trade.acknowledged, true)))
  AND ($5::text IS NULL OR symbol = $5)
  AND ($6::timestamptz IS NULL OR created_at >= $6)
  AND ($7::timestamptz IS NULL OR created_at < $7)
ORDER BY seq DESC
LIMIT $8

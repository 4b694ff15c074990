-- $1 trade_ids, $2 their high-water marks, $3 whether a higher one is the better
-- The better one stays: another process may have seen another market.
INSERT INTO trail
    SELECT trade_id, CASE WHEN rises THEN greatest(seen.mark, known.high_water) ELSE least(seen.mark, known.high_water) END
    FROM unnest($1::uuid[], $2::bigint[], $3::boolean[]) AS seen (trade_id, mark, rises)
    LEFT JOIN trail AS known USING (trade_id)
ON CONFLICT (trade_id) DO UPDATE SET high_water = excluded.high_water

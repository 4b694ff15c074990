-- $1 symbol, $2 a midnight in New York
-- Of the days before it, only the last sample of each stays.
DELETE FROM price_sample AS sample
WHERE sample.symbol = $1 AND sample.at < $2
  AND (SELECT true FROM price_sample AS later
       WHERE later.symbol = sample.symbol AND later.at > sample.at
         AND later.at < (date_trunc('day', sample.at AT TIME ZONE 'America/New_York') + interval '1 day')
                        AT TIME ZONE 'America/New_York'
       LIMIT 1)

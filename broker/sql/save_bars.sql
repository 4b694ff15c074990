-- The columns of bars, as arrays.
-- The same bar again, or another broker's bar of the same feed, counts nothing twice: the fuller telling holds.
-- broker/core/bars.py says the same (told_twice).
INSERT INTO bar AS saved (symbol, timeframe, starts_at, open, high, low, close, volume, value, trades)
SELECT *
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
            $8::bigint[], $9::bigint[], $10::int[])
ON CONFLICT (symbol, timeframe, starts_at) DO UPDATE SET
    high = greatest(saved.high, excluded.high),
    low = least(saved.low, excluded.low),
    close = CASE WHEN excluded.volume > saved.volume THEN excluded.close ELSE saved.close END,
    volume = greatest(saved.volume, excluded.volume),
    value = greatest(saved.value, excluded.value),
    trades = greatest(saved.trades, excluded.trades)

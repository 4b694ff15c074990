-- $1 customer_id, $2 up to this transfer, $3 from this transfer on, $4 kinds or null, $5 only those with a fee, $6 from,
-- $7 to, $8 rows. The customer's transfers, newest first: cash, shares (as arrays), and the execution that made it or that
-- it takes back.
SELECT page.transfer_id, page.cash, page.symbols, page.shares, transfer.kind, transfer.reference, transfer.at,
       made.corrects, trade.side, trade.trade_id,
       coalesce(made.last_qty, taken.last_qty) AS last_qty,
       coalesce(made.last_px, taken.last_px) AS last_px,
       coalesce(made.fee, taken.fee, 0) AS fee
FROM (
    SELECT transfer_id, coalesce(sum(amount) FILTER (WHERE asset = '$USD'), 0)::bigint AS cash,
           array_agg(asset::text ORDER BY asset DESC) FILTER (WHERE asset <> '$USD') AS symbols,
           array_agg(amount ORDER BY asset DESC) FILTER (WHERE asset <> '$USD') AS shares
    FROM posting
    WHERE owner_id = $1 AND transfer_id <= $2 AND transfer_id >= $3
    GROUP BY transfer_id
    ORDER BY transfer_id DESC  -- as the index has them: a page must not sort all there is
) AS page
JOIN transfer ON transfer.transfer_id = page.transfer_id
LEFT JOIN execution AS made ON made.transfer_id = page.transfer_id
LEFT JOIN bust ON bust.transfer_id = page.transfer_id
LEFT JOIN execution AS taken ON taken.venue = bust.venue AND taken.execution_id = bust.execution_id
LEFT JOIN trade ON trade.trade_id = coalesce(made.trade_id, taken.trade_id)
WHERE ($4::text[] IS NULL OR transfer.kind::text = ANY($4::text[]))
  AND (NOT $5::boolean OR coalesce(made.fee, taken.fee, 0) > 0)
  AND ($6::timestamptz IS NULL OR transfer.at >= $6)
  AND ($7::timestamptz IS NULL OR transfer.at < $7)
ORDER BY page.transfer_id DESC
LIMIT $8

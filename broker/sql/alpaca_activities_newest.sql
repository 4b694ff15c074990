-- $1 customer_id, $2 from this transfer on, $3 up to this transfer, $4 Alpaca's types or null, $5 after, $6 until,
-- $7 rows. The customer's transfers, the newest first: cash, shares (as arrays), the execution that made it or that it takes
-- back, and what the order had filled with it.
SELECT found.*, (
    SELECT sum(earlier.last_qty)::bigint FROM execution AS earlier
    WHERE earlier.trade_id = found.trade_id AND NOT earlier.suspense AND earlier.corrects IS NULL
      AND earlier.transfer_id <= found.transfer_id
) AS cum_quantity
FROM (
    SELECT page.transfer_id, page.cash, page.symbols, page.shares, transfer.kind, transfer.reference, transfer.at,
           made.corrects, trade.side, trade.trade_id, trade.quantity, trade.symbol,
           coalesce(made.venue, taken.venue) AS venue, coalesce(made.execution_id, taken.execution_id) AS execution_id,
           coalesce(made.last_qty, taken.last_qty) AS last_qty,
           coalesce(made.last_px, taken.last_px) AS last_px,
           coalesce(made.fee, taken.fee, 0) AS fee
    FROM (
        SELECT transfer_id, coalesce(sum(amount) FILTER (WHERE asset = '$USD'), 0)::bigint AS cash,
               array_agg(asset::text ORDER BY asset DESC) FILTER (WHERE asset <> '$USD') AS symbols,
               array_agg(amount ORDER BY asset DESC) FILTER (WHERE asset <> '$USD') AS shares
        FROM posting
        WHERE owner_id = $1 AND transfer_id >= $2 AND transfer_id <= $3
        GROUP BY transfer_id
        ORDER BY transfer_id DESC  -- as the index has them: a page must not sort all there is
    ) AS page
    JOIN transfer ON transfer.transfer_id = page.transfer_id
    LEFT JOIN execution AS made ON made.transfer_id = page.transfer_id
    LEFT JOIN bust ON bust.transfer_id = page.transfer_id
    LEFT JOIN execution AS taken ON taken.venue = bust.venue AND taken.execution_id = bust.execution_id
    LEFT JOIN trade ON trade.trade_id = coalesce(made.trade_id, taken.trade_id)
    WHERE ($5::timestamptz IS NULL OR transfer.at > $5) AND ($6::timestamptz IS NULL OR transfer.at < $6)
      AND ($4::text[] IS NULL OR coalesce(made.fee, taken.fee, 0) > 0 AND 'FEE' = ANY($4::text[])
           OR CASE transfer.kind::text
              WHEN 'fill' THEN 'FILL'
              WHEN 'cash' THEN CASE WHEN page.cash > 0 THEN 'CSD' ELSE 'CSW' END
              WHEN 'corporate' THEN CASE WHEN page.symbols IS NULL THEN 'DIV' ELSE 'SPLIT' END
              WHEN 'bust' THEN 'BUST' WHEN 'reset' THEN 'JNL' ELSE 'MISC' END = ANY($4::text[]))
    ORDER BY page.transfer_id DESC
    LIMIT $7
) AS found
ORDER BY found.transfer_id DESC

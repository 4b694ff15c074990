-- The symbols of which a customer has shares. It leaps from symbol to symbol in the index, and looks at no more rows of
-- each than it takes to find a holder.
WITH RECURSIVE symbol AS (
    (SELECT asset FROM account WHERE owner_id > 0 AND asset <> '$USD' ORDER BY asset LIMIT 1)
    UNION ALL
    SELECT (SELECT account.asset FROM account
            WHERE account.owner_id > 0 AND account.asset <> '$USD' AND account.asset > symbol.asset
            ORDER BY account.asset LIMIT 1)
    FROM symbol
    WHERE symbol.asset IS NOT NULL
)
SELECT asset::text AS symbol
FROM symbol
WHERE (SELECT true FROM account
       WHERE account.owner_id > 0 AND account.asset <> '$USD' AND account.asset = symbol.asset AND account.balance > 0
       LIMIT 1)

-- What shares cost is of shares that are there, and cash costs nothing.
SELECT owner_id, asset, balance, cost, gain FROM account
WHERE owner_id > 0 AND (cost < 0 OR (balance = 0 AND cost <> 0) OR (asset = '$USD' AND (cost <> 0 OR gain <> 0)))

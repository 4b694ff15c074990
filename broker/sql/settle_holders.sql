-- $1 event_id, $2 symbol; whoever holds it when this comes first stays its holder
UPDATE corporate_action SET holders = (
    SELECT coalesce(array_agg(owner_id ORDER BY owner_id), '{}') FROM account
    WHERE asset = $2 AND asset <> '$USD' AND owner_id > 0 AND balance > 0)
WHERE event_id = $1 AND holders IS NULL

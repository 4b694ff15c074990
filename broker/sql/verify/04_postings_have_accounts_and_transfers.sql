SELECT posting.transfer_id, posting.owner_id, posting.asset
FROM posting
LEFT JOIN account USING (owner_id, asset)
LEFT JOIN transfer USING (transfer_id)
WHERE account.owner_id IS NULL OR transfer.transfer_id IS NULL

-- $1 references of movements of cash
SELECT transfer.reference, transfer.transfer_id, posting.owner_id, posting.amount
FROM transfer
JOIN posting ON posting.transfer_id = transfer.transfer_id AND posting.owner_id > 0
WHERE transfer.kind = 'cash' AND transfer.reference = ANY($1::text[])

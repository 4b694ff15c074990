SELECT transfer.transfer_id, transfer.reference
FROM transfer LEFT JOIN execution USING (transfer_id)
WHERE transfer.kind = 'fill' AND execution.transfer_id IS NULL

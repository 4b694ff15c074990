SELECT transfer.transfer_id, transfer.kind, transfer.reference
FROM transfer LEFT JOIN execution USING (transfer_id) LEFT JOIN bust ON bust.transfer_id = transfer.transfer_id
WHERE (transfer.kind IN ('fill', 'suspense') AND execution.transfer_id IS NULL)
   OR (transfer.kind = 'bust' AND bust.transfer_id IS NULL)

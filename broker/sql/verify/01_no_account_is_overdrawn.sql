-- Nobody has reserved or spent what is not there.
SELECT owner_id, asset, balance, held, floor FROM account WHERE held < 0 OR balance - held < floor

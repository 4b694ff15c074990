SELECT create_customer($1, $2, $3, $4, $5, $6, $7, $8, $9) AS customer_id

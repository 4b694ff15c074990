-- $1 customer_id, $2 the fields that change, as JSON; the others stay as they are
INSERT INTO account_configuration (customer_id, content) VALUES ($1, $2::jsonb)
    ON CONFLICT (customer_id) DO UPDATE SET content = account_configuration.content || excluded.content
    RETURNING content

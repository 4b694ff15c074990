SELECT scope, name, value FROM risk_limit

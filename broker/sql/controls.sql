SELECT scope, reason FROM control

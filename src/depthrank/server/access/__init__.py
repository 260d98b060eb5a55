"""Who may call what: tokens and scopes, quotas, TLS, browsers and slow or numerous connections."""

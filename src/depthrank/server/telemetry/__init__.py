"""What the server tells others of itself beside metrics: log lines and traces."""

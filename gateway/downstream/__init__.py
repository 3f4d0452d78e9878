"""edge. The clients' side: connections, one request's exchange, CORS."""

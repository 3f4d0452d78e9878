"""edge. The clients' side: connections, the exchange of one request, CORS."""

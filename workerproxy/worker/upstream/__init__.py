"""Below steps 2 and 3: clusters, hosts, connection pools, circuit breakers."""

"""What is checked before a gateway is trusted with traffic: one check a file, each of which asks one thing."""

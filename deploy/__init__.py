"""What the containers need besides the services: secrets, the broker's definitions, and the database's users."""

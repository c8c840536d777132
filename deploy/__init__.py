"""What the stack of containers needs beside the services: secrets, the broker's definitions, the database's users."""

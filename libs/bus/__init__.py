"""The event bus: one port with two adapters (RabbitMQ, in-process), and the outbox relay that feeds it."""

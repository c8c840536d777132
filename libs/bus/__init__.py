"""The event bus: one port, two adapters (RabbitMQ, in-process), and the outbox relay that feeds it."""

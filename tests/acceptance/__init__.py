"""The system as users see it: separate processes behind the edge, with a real RabbitMQ and a real MongoDB."""

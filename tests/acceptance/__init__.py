"""The system as its users meet it: separate processes behind the edge, over a real RabbitMQ and a real MongoDB."""

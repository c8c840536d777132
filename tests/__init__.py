"""Tests of the product, against a real MongoDB and a real RabbitMQ, which `tests.provision` finds or starts."""

"""The command `doctor`: whether settings, MongoDB, RabbitMQ, keys, port and disk are as the services need them."""

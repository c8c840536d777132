"""Webhooks: every new and refreshed token reaches its resource owner service."""

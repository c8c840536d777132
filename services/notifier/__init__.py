"""Delivers a webhook to the resource owner service for every new and every refreshed token."""

"""Ports and their adapters: one suite each, run over every adapter."""

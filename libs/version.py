"""The version of Tokenwire, in one place; pyproject.toml reads it here."""

VERSION = "0.2.0"

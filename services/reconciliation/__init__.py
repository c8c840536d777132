"""Reconciliation (`/api/events/audit`): compares the events that records committed with those the bus delivered."""

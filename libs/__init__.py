"""What the services share: each package is one noun of the house, in layers that `make check` enforces."""

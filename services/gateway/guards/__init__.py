"""The checks that an API definition asks for besides a token, one file each; `chain` runs them in order."""

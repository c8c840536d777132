"""One file a grant type: each decides whether this client gets tokens, and what is written when it does."""

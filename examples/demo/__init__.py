"""The whole story, told by requests: `python -m examples.demo`, which is `make demo`.

An API is imported, a client registered; a browser authorizes, logs in, consents; the client exchanges the code, the
resource owner service hears of it; the API is called; the token is refreshed, heard of again, revoked, refused.

It runs against the Tokenwire at `TOKENWIRE_URL` (default `http://127.0.0.1:8080`) with the operator key in
`TOKENWIRE_OPERATOR_KEY` or `.data/operator-key`. Where none answers it starts one on a free port with temporary data,
and stops it at the end. The login page, the webhook receiver, the resource server and the subscriber are the examples
next to this package, on free ports of this machine. What the story made, it deletes.

Every answer is compared with what it has to be. The first difference ends the story: what was expected and what came is
printed, and the exit status is 1.
"""

"""The whole OAuth flow, request by request: `python -m examples.demo`, or `make demo`.

It imports an API and registers a client. A browser authorizes, logs in and consents. The client exchanges the code, and
the resource owner service receives the webhook. The client calls the API, refreshes the token, and revokes it; then the
API refuses it.

The demo uses the Tokenwire at `TOKENWIRE_URL` (default `http://127.0.0.1:8080`) with the operator key in
`TOKENWIRE_OPERATOR_KEY`, `.data/operator-key` (`make run`) or `.secrets/bootstrap_operator_key` (`make up`). If none
responds, it starts one on a free port with temporary data and stops it at the end. The identity server, the webhook
receiver, the resource server and the subscriber are the examples next to this package, on free ports of this machine.
The stack of `make up` reaches them at this machine's address on Docker's network, and sends webhooks there only with
`TOKENWIRE_ALLOW_PRIVATE_DESTINATIONS=true`.

The demo deletes what it creates, and ends with a link to the page of its grant in the console. A Tokenwire that was
started for the demo then waits for Enter.

Every response is compared with the expected one. The first mismatch ends the demo: it prints what was expected and what
came, and exits with status 1.
"""

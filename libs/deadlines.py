"""How long a request may take, and the windows in which a client may repeat it.

They are in one place because each window must cover the deadlines: a client whose request failed waits for
`Retry-After` and repeats it with the same code or refresh token, which must not be taken for a theft.
"""

from datetime import timedelta

OPERATION_WITHIN = 4.0
"""Seconds for one operation of MongoDB, with the driver's own retry."""
REPEAT_WRITE_WITHIN = 6.0
"""Seconds for which a write whose outcome is unknown is repeated with the same values."""
WRITE_WITHIN = REPEAT_WRITE_WITHIN + OPERATION_WITHIN
"""Seconds after which a write is given up: the last attempt may begin just before REPEAT_WRITE_WITHIN is over."""
RETRY_AFTER = 2
"""Whole seconds that a 503 asks its client to wait."""
REQUEST_WITHIN = 30.0
"""Seconds after which no client waits for a response any more: the edge's `proxy_read_timeout`."""
UNSENT_RESPONSE_WINDOW = timedelta(seconds=2 * (REQUEST_WITHIN + RETRY_AFTER))
"""For how long a client can get a response again that was never sent to it.

The first attempt and one retry may fail, each after the longest time that a request can take and each followed by
`Retry-After`; the next retry still gets the response.
"""
NOTE_WITHIN = 0.25
"""Seconds after which a write of its own notes that a response was sent, if no other write has carried the note."""
IN_FLIGHT_WITHIN = 1.0
"""Seconds for which a second request with the same code or refresh token waits for the first one's response.

Longer than NOTE_WITHIN and the write of the note: another process learns from the note that the response was sent.
"""

"""Everything that knows HTTP, but for the endpoints' declarations, which BentoML wants in ``service.py``.

A request meets these, outermost first (``edge.py`` puts them together)::

    journal      a request id, one log line
    cors         what browsers may call and read
    limits       how many bytes a body may have
    error_shape  one JSON shape for whatever goes wrong further in
    routing      404, 405 and OPTIONS, before anything else looks at the path
    auth         API keys
      BentoML    metrics, tracing, its own routes
    inpainting   one request painted: negotiation → forms → parameters → painter → results
    jobs         the same in the background: accepted, looked up, followed (events), cancelled
    metrics      how much work waits, and how it ended
    health       whether it can paint now, and with what
"""

"""Everything that knows HTTP, in three storeys, with BentoML at the porch.

``application`` makes it all of the settings. A request meets these, outermost first::

    middleware/access_log   a request id, one log line
    middleware/cors         what browsers may call and read
    middleware/body_limit   how many bytes a body may have
    middleware/error_shape  one JSON shape for whatever goes wrong further in
    middleware/routing      404, 405 and OPTIONS, before anything else looks at the path
    middleware/api_keys     who may call
      BentoML               metrics, tracing, its own routes
    endpoints/              what answers, one file for each group of paths

``wire`` is what goes over the line, as bytes and as values; ``bento`` is what BentoML is told, and what of it is
corrected.
"""

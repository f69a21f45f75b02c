"""The dialect of AUTOMATIC1111's web UI, below ``/sdapi/v1``.

Source: the fields of that web UI's API (version 1.10), their defaults and their meaning, and what its clients send.
"""

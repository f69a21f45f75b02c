"""Attacks that once stopped the service, each as a test that failed before its guard: see docs/security.md."""

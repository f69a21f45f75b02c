"""What the scripts run: no part of the service."""

"""A server of the Model Context Protocol: what assistants call this service by."""

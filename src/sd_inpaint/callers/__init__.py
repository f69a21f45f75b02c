"""Who calls: their keys, and how much each may use."""

"""Pictures of the page, for docs/page/."""

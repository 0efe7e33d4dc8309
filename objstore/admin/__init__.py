"""Admin API, health and metrics under /-/."""

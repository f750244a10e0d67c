"""CloudEvents about jobs for one sink outside of the operator (docs/how-to/notifications.md)."""

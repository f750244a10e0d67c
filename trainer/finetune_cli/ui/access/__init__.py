"""Who may see the pages: the one-time code, sessions, and checks of each request."""

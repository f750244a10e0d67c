"""Who may see the pages, with whose rights: sessions, credentials, and checks of each request."""

"""Which of several candidates is returned, when a request says what it prefers."""

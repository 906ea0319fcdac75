"""The documentation: Markdown pages, which ``memaudit help TOPIC`` shows."""

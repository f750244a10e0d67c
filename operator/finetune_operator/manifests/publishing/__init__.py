"""What the publish Job needs: access to its targets, statements to attach, and what to track."""

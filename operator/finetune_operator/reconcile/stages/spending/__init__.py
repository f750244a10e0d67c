"""What a training may spend: budgets and reservations. Pure."""

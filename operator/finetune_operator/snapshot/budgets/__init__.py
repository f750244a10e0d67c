"""The FineTuneBudgets, and what decides about them: namespaces, priorities, waiting jobs."""
